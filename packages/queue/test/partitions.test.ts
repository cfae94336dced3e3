/**
 * Ranges of ids: made ahead, turned over by time, dropped when nothing in them is needed; no task is lost on the way.
 *
 * Ranges are ten million ids wide; the sequence is moved instead of submitting that many, and the clock with it, so that
 * the rate of submission looks like one. Duties that call these functions are housekeeping.test.ts.
 */
import type { Db } from '@leasehold/queue'
import type { Client } from 'pg'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import {
  addStage,
  addWorker,
  claim,
  claimOne,
  insertTask,
  insertTasks,
  problems,
  settle,
  settleDone,
  stateOf,
  untilBlocked,
} from './scene.ts'

const size = 10_000_000n
const hour = 3_600_000

/** The first id of the test's range. */
let base: bigint
let database: TestDatabase
let db: Db
let stage: string
let worker: string

beforeAll(async () => {
  database = await createTestDatabase()
  db = database.pool
  await set({ range_ids: String(size) })
})
afterAll(() => database.drop())
beforeEach(async () => {
  stage = await addStage(db)
  await database.advance(hour)
  worker = await addWorker(db, [stage], { ttl: '1 day' })
  // A range of its own for each test, with two more ahead.
  await ask('ensure_partitions(2)')
  base = BigInt(await ask<string>('rotate_partitions()'))
  await ask('ensure_partitions(2)')
  return async () => expect(await problems(db)).toEqual([])
})

async function ask<T>(call: string, ...values: unknown[]): Promise<T> {
  return askOn<T>(db, call, ...values)
}

/** On one session: a refusal is told before its locks are gone, so that another session may still meet them. */
async function askOn<T>(session: Db, call: string, ...values: unknown[]): Promise<T> {
  const { rows } = await session.query<{ answer: T }>(`select leasehold.${call} as answer`, values)
  return rows[0]!.answer
}

async function set(settings: Record<string, string | null>): Promise<void> {
  await db.query('select leasehold.set_retention($1)', [JSON.stringify(settings)])
}

async function firstIds(): Promise<string[]> {
  const { rows } = await db.query<{ first: string }>(
    'select first_id as first from leasehold.partitions order by 1',
  )
  return rows.map((row) => row.first)
}

async function sessions(n: number): Promise<Client[]> {
  return Promise.all(Array.from({ length: n }, () => database.client()))
}

async function newestWidth(): Promise<number> {
  const { rows } = await db.query<{ wide: number }>(
    'select (end_id - first_id)::float8 as wide from leasehold.partitions order by first_id desc limit 1',
  )
  return rows[0]!.wide
}

async function partitionOf(id: string): Promise<string> {
  const { rows } = await db.query<{ name: string }>(
    'select c.relname as name from leasehold.tasks t join pg_class c on c.oid = t.tableoid where t.id = $1',
    [id],
  )
  return rows[0]!.name
}

async function moveIdsTo(next: bigint): Promise<void> {
  await database.advance(3 * hour)
  await db.query(`select setval('leasehold.tasks_id_seq', $1, false)`, [String(next)])
}

/** Ends everything, and lets a day pass. */
async function endAll(): Promise<void> {
  await settleDone(db, worker, await claim(db, worker, stage, 100))
  await database.advance(24 * hour)
  worker = await addWorker(db, [stage], { ttl: '1 day' })
}

/** Tries to drop the test's range, if it was closed more than an hour ago; why it stays, or null. */
async function drop(): Promise<string | null> {
  const reason = await ask<string | null>(`drop_range($1, leasehold.clock() - interval '1 hour')`, base)
  if (reason === null) while ((await ask('drop_leftovers()')) !== null);
  return reason
}

/** Tables of the test's range that are left. */
async function tablesLeft(): Promise<string[]> {
  const { rows } = await db.query<{ name: string }>(
    `select relname as name from pg_class where relname ~ ('_' || $1 || '$') and relkind = 'r'
      and relnamespace = 'leasehold'::regnamespace order by 1`,
    [base],
  )
  return rows.map((row) => row.name.replace(`_${base}`, ''))
}

/** A task of the test's range that ended a day ago, in a range that is closed. */
async function endedLongAgo(): Promise<string> {
  const id = await insertTask(db, stage)
  await ask('rotate_partitions()')
  await db.query('select leasehold.cancel_task($1)', [id])
  await database.advance(24 * hour)
  return id
}

test('two ranges are kept ahead of the ids, and making them again makes nothing', async () => {
  expect((await firstIds()).at(-1)).toBe(String(base + 2n * size))
  expect(await ask('ensure_partitions()')).toBe(0)
  await moveIdsTo(base + size - 1n)
  await insertTasks(db, stage, 3)
  expect(await ask('ensure_partitions()')).toBe(1)
  expect((await firstIds()).at(-1)).toBe(String(base + 3n * size))
})

test('when nobody made ranges, tasks go to the default one, live there, and new ranges go on behind them', async () => {
  await moveIdsTo(base + 3n * size + 5n)
  const id = await insertTask(db, stage)
  expect(await partitionOf(id)).toBe('tasks_default')
  expect(await ask('ensure_partitions()')).toBe(2)
  expect((await firstIds()).slice(-2)).toEqual([String(base + 4n * size), String(base + 5n * size)])
  const lease = await claimOne(db, worker, stage)
  expect(await settle(db, worker, lease, 'done', { result: 1 })).toBe(true)
  await moveIdsTo(base + 4n * size)
  expect(await partitionOf(await insertTask(db, stage))).toBe(`tasks_${base + 4n * size}`)
})

test('an open submitter does not keep ranges from being made; ids jump when it has ended', async () => {
  const [session, monitor] = (await sessions(2)) as [Client, Client]
  await session.query('begin')
  await insertTask(session, stage)
  expect(await askOn(monitor, 'ensure_partitions(4)')).toBe(2)
  await expect(askOn(monitor, 'rotate_partitions()')).rejects.toMatchObject({ code: '55P03' })
  await session.query('commit')
  expect(await askOn(monitor, 'rotate_partitions()')).toBe(String(base + size))
})

test('whoever reads every partition in an open transaction keeps none waiting: ranges are made another time', async () => {
  const [session, monitor] = (await sessions(2)) as [Client, Client]
  await session.query('begin')
  await session.query('select count(*) from leasehold.tasks')
  await expect(askOn(monitor, 'ensure_partitions(4)')).rejects.toMatchObject({ code: '55P03' })
  await session.query('rollback')
  expect(await askOn(monitor, 'ensure_partitions(4)')).toBe(2)
})

test('ids jump when a range has taken tasks for its span, and not while it has taken none', async () => {
  await database.advance(30 * 24 * hour)
  expect(await ask('rotation_is_due()')).toBe(false)
  await insertTasks(db, stage, 2)
  expect(await ask('rotation_is_due()')).toBe(true)
  await ask('rotate_partitions()')
  expect(await ask('rotation_is_due()')).toBe(false)
  await claim(db, await addWorker(db, [stage], { ttl: '1 day' }), stage, 2)
})

test('when ids ran out of all ranges, they jump into the next one as soon as it is made', async () => {
  await moveIdsTo(base + 3n * size + 5n)
  await insertTask(db, stage)
  await ask('ensure_partitions()')
  expect(await ask('rotation_is_due()')).toBe(true)
  const next = await ask<string>('rotate_partitions()')
  expect(await partitionOf(await insertTask(db, stage))).toBe(`tasks_${next}`)
})

test('a new range begins where ids jump to, and what is unfinished goes on', async () => {
  const [old] = await insertTasks(db, stage, 1)
  expect(await ask('rotate_partitions()')).toBe(String(base + size))
  const next = await insertTask(db, stage, { depends_on: [old] })
  expect(next).toBe(String(base + size))
  expect(await partitionOf(next)).toBe(`tasks_${base + size}`)
  await settleDone(db, worker, await claim(db, worker, stage))
  expect((await claimOne(db, worker, stage)).taskId).toBe(next)
})

test('a closed range is dropped when all its tasks ended long enough ago, with everything of theirs', async () => {
  const ids = await insertTasks(db, stage, 3)
  await ask('rotate_partitions()')
  const kept = await insertTask(db, stage)
  expect(await drop()).toMatch(/took new tasks until/)
  await endAll()
  expect(await drop()).toBeNull()
  expect(await stateOf(db, ids[0]!)).toBe('unknown')
  expect(await stateOf(db, kept)).toBe('done')
  expect(await tablesLeft()).toEqual([])
  expect(await firstIds()).not.toContain(String(base))
})

test('a drop that was interrupted goes on where it was', async () => {
  const id = await endedLongAgo()
  await ask(`drop_range($1, leasehold.clock() - interval '1 hour')`, base)
  expect(await stateOf(db, id)).toBe('unknown')
  expect(await tablesLeft()).toEqual(['attempts', 'task_checkpoints', 'task_logs', 'task_progress'])
  expect(await ask('drop_leftovers()')).toBe(`leasehold.attempts_${base}`)
  const session = await database.client()
  await session.query('begin')
  await session.query('select from leasehold.task_progress')
  expect(await ask('drop_leftovers()')).toBeNull()
  await session.query('rollback')
  while ((await ask('drop_leftovers()')) !== null);
  expect(await tablesLeft()).toEqual([])
})

const waysToBeNeeded: Record<string, (id: string) => Promise<unknown>> = {
  'is ready': () => Promise.resolve(),
  runs: () => claimOne(db, worker, stage),
  'waits for its retry': async () =>
    settle(db, worker, await claimOne(db, worker, stage), 'fail', { retry_after: '9 days' }),
  'waits for its key': async () => {
    await insertTask(db, stage, { concurrency_key: 'k', priority: 9 })
    await insertTask(db, stage, { concurrency_key: 'k' })
    await claim(db, worker, stage, 1)
  },
  'ended only now': async () => {
    await database.advance(2 * hour)
    await settleDone(db, worker, await claim(db, worker, stage))
  },
}
const saysWhy: Record<string, RegExp> = {
  'waits for its key': /2 tasks|3 tasks/,
  'ended only now': /last task ended/,
}

test.each(Object.keys(waysToBeNeeded))('a range stays while a task of it %s', async (way) => {
  const id = await insertTask(db, stage)
  await waysToBeNeeded[way]!(id)
  await ask('rotate_partitions()')
  if (way === 'ended only now')
    await db.query(`update leasehold.partitions set closed_at = closed_at - interval '1 day'`)
  else await database.advance(2 * hour)
  expect(await drop()).toMatch(saysWhy[way] ?? new RegExp(`1 task of it is unfinished: ${id}`))
  expect(await stateOf(db, id)).not.toBe('unknown')
})

test('a range stays until the children of its tasks have heard of their end', async () => {
  const parent = await insertTask(db, stage)
  await ask('rotate_partitions()')
  const children = await addStage(db)
  const child = await insertTask(db, children, { depends_on: [parent] })
  await endAll()
  expect(await drop()).toBe(`a child of task ${parent} has not heard of its end yet`)
  await db.query('select leasehold.process_nudges($1)', [[children]])
  expect(await drop()).toBeNull()
  expect(await stateOf(db, child)).toBe('ready')
})

test('a task that is reopened while its range is about to go keeps the range', async () => {
  const id = await endedLongAgo()
  const operator = await database.client()
  await operator.query('begin')
  await operator.query('select leasehold.retry_task($1)', [id])
  expect(await drop()).toMatch(/uses leasehold.tasks stays open \(pid \d+\)/)
  await operator.query('commit')
  expect(await drop()).toMatch(/unfinished/)
  expect(await stateOf(db, id)).toBe('ready')
})

test('a task whose range has just gone cannot be reopened, nor depended on', async () => {
  const id = await endedLongAgo()
  const [operator, submitter, retention] = (await sessions(3)) as [Client, Client, Client]
  await retention.query('begin')
  await retention.query(`select leasehold.drop_range($1, leasehold.clock() - interval '1 hour')`, [base])
  const retried = operator.query('select leasehold.retry_task($1)', [id])
  const refused = expect(retried).rejects.toMatchObject({ code: 'LH002' })
  await untilBlocked(db, operator, retried)
  const submitted = insertTask(submitter, stage, { depends_on: [id] })
  const orphan = expect(submitted).rejects.toMatchObject({ code: 'LH003' })
  await untilBlocked(db, submitter, submitted)
  await retention.query('commit')
  await Promise.all([refused, orphan])
  await drop()
})

// Without the second look the range would go although somebody came to need it while the lock was waited for.
test('what is needed only since the lock was asked for keeps the range', async () => {
  const id = await endedLongAgo()
  const [submitter, retention] = (await sessions(2)) as [Client, Client]
  await db.query(`alter function leasehold.drop_range set lock_timeout = '1min'`)
  await db.query(`alter function leasehold.long_holders rename to long_holders_in_truth`)
  await db.query(`create function leasehold.long_holders(regclass) returns text language sql
    set search_path = pg_catalog, leasehold, pg_temp as 'select null::text'`)
  await submitter.query('begin')
  const child = await insertTask(submitter, stage, { depends_on: [id] })
  const dropping = retention.query<{ reason: string }>(
    `select leasehold.drop_range($1, leasehold.clock() - interval '1 hour') as reason`,
    [base],
  )
  await untilBlocked(db, retention, dropping)
  await submitter.query('commit')
  expect((await dropping).rows[0]!.reason).toMatch(/a child of task/)
  await db.query('drop function leasehold.long_holders(regclass)')
  await db.query(`alter function leasehold.long_holders_in_truth rename to long_holders`)
  await db.query(`alter function leasehold.drop_range set lock_timeout = '200ms'`)
  await db.query('select leasehold.process_nudges($1)', [[stage]])
  expect(await stateOf(db, child)).toBe('cancelled')
})

test('a dropped parent counts as ended: nobody can depend on it any more, and a child of it can be retried', async () => {
  const children = await addStage(db)
  const parent = await insertTask(db, stage)
  await ask('rotate_partitions()')
  const child = await insertTask(db, children, { depends_on: [parent] })
  await db.query('select leasehold.cancel_task($1)', [parent])
  await db.query('select leasehold.process_nudges($1)', [[children]])
  await expect(ask('retry_task($1)', child)).rejects.toMatchObject({ code: 'LH005' })
  await database.advance(24 * hour)
  expect(await drop()).toBeNull()
  await expect(insertTask(db, stage, { depends_on: [parent] })).rejects.toMatchObject({ code: 'LH003' })
  expect(await ask('retry_task($1)', child)).toBe(true)
  expect(await stateOf(db, child)).toBe('ready')
})

test('an id that was drawn before its range went and is inserted after it lives in the default partition, and goes from there', async () => {
  await endedLongAgo()
  await ask('delete_strays(leasehold.clock())') // those of other tests
  const late = base + 1_000n
  expect(await drop()).toBeNull()
  await db.query('insert into leasehold.tasks (id, stage) overriding system value values ($1, $2)', [
    late,
    stage,
  ])
  expect(await partitionOf(String(late))).toBe('tasks_default')
  const fresh = await addWorker(db, [stage], { ttl: '1 day' })
  await settleDone(db, fresh, [await claimOne(db, fresh, stage)])
  await insertTask(db, stage, { depends_on: [late] })
  await database.advance(2 * hour)
  expect(await ask(`delete_strays(leasehold.clock() - interval '1 hour')`)).toBe(0) // its child has not heard of it
  await db.query('select leasehold.process_nudges($1)', [[stage]])
  expect(await ask(`delete_strays(leasehold.clock() - interval '3 hours')`)).toBe(0)
  expect(await ask(`delete_strays(leasehold.clock() - interval '1 hour')`)).toBe(1)
  expect(await stateOf(db, String(late))).toBe('unknown')
})

test('log lines may go before their tasks, once these have ended; a later retry writes new ones', async () => {
  const id = await insertTask(db, stage)
  const lease = await claimOne(db, worker, stage)
  const note = (message: string, fence: string): string =>
    JSON.stringify([{ task_id: id, fence, kind: 'log', message }])
  await db.query('select leasehold.write_notes($1, $2)', [worker, note('old', lease.fence)])
  await ask('rotate_partitions()')
  await database.advance(2 * hour)
  const goes = (): Promise<string | null> =>
    ask(`drop_range_logs($1, leasehold.clock() - interval '1 hour')`, base)
  expect(await goes()).toMatch(/unfinished/)
  await settle(db, worker, lease, 'fail', { retryable: false })
  expect(await goes()).toMatch(/last task ended/)
  await database.advance(2 * hour)
  expect(await goes()).toBeNull()
  expect(await stateOf(db, id)).toBe('dead')
  await ask('retry_task($1)', id)
  const again = await claimOne(db, worker, stage)
  await db.query('select leasehold.write_notes($1, $2)', [worker, note('new', again.fence)])
  const { rows } = await db.query('select message from leasehold.task_logs where task_id = $1', [id])
  expect(rows).toEqual([{ message: 'new' }])
})

test('two that rotate at once do not both jump', async () => {
  await insertTask(db, stage)
  const session = await database.client()
  await session.query('begin')
  await session.query('select leasehold.rotate_partitions()')
  expect(await ask('rotate_partitions()')).toBeNull()
  expect(await ask('ensure_partitions(9)')).toBe(0)
  expect(await drop()).toMatch(/another process/)
  await session.query('commit')
})

test('ranges are as wide as the rate of submission asks for, or as they are told to be', async () => {
  await moveIdsTo(base + size) // a thousand tasks a second, for three hours
  await set({ range_ids: '5000' })
  expect(await ask('ensure_partitions(3)')).toBe(2)
  expect(await newestWidth()).toBe(5_000)
  await set({ range_ids: null, rotate_every: '1 day' })
  expect(await ask('ensure_partitions(4)')).toBe(1)
  expect(await newestWidth()).toBe(160_000_000)
  // Ids for three minutes at that rate lie ahead, and two ranges, whichever is more.
  expect(await ask('ensure_partitions()')).toBe(0)
})
