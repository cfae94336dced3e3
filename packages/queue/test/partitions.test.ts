/**
 * Ranges of ids: made ahead, opened by retention, dropped when nothing in them is needed; no task is lost on the way.
 *
 * Ranges are ten million ids wide; the sequence is moved instead of submitting that many. When to do what is the
 * monitor's business.
 */
import type { Db } from '@leasehold/queue'
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

/** The first id of the test's range. */
let base: bigint
let database: TestDatabase
let db: Db
let stage: string
let worker: string

beforeAll(async () => {
  database = await createTestDatabase()
  db = database.pool
})
afterAll(() => database.drop())
beforeEach(async () => {
  stage = await addStage(db)
  worker = await addWorker(db, [stage], { ttl: '1 day' })
  // A range of its own for each test, with two more ahead.
  await ask('ensure_partitions(2)')
  base = BigInt(await ask<string>('rotate_partitions()'))
  await ask('ensure_partitions(2)')
  return async () => expect(await problems(db)).toEqual([])
})

async function ask<T>(call: string, ...values: unknown[]): Promise<T> {
  const { rows } = await db.query<{ answer: T }>(`select leasehold.${call} as answer`, values)
  return rows[0]!.answer
}

async function firstIds(): Promise<string[]> {
  const { rows } = await db.query<{ first: string }>(
    'select first_id as first from leasehold.partitions order by 1',
  )
  return rows.map((row) => row.first)
}

async function partitionOf(id: string): Promise<string> {
  const { rows } = await db.query<{ name: string }>(
    'select c.relname as name from leasehold.tasks t join pg_class c on c.oid = t.tableoid where t.id = $1',
    [id],
  )
  return rows[0]!.name
}

async function moveIdsTo(next: bigint): Promise<void> {
  await db.query(`select setval('leasehold.tasks_id_seq', $1, false)`, [String(next)])
}

/** Ends everything, and lets a day pass. */
async function endAll(): Promise<void> {
  await settleDone(db, worker, await claim(db, worker, stage, 100))
  await database.advance(86_400_000)
  worker = await addWorker(db, [stage], { ttl: '1 day' })
}

/** Drops what was closed more than an hour ago; whether the test's range was among it. */
async function drop(): Promise<boolean> {
  return (await ask<string[]>(`drop_partitions(leasehold.clock() - interval '1 hour')`)).includes(
    String(base),
  )
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

test('making ranges gives way to an open submitter instead of holding everybody up', async () => {
  const session = await database.client()
  await session.query('begin')
  await insertTask(session, stage)
  await expect(ask('ensure_partitions(9)')).rejects.toMatchObject({ code: '55P03' })
  await expect(ask('rotate_partitions()')).rejects.toMatchObject({ code: '55P03' })
  await session.query('commit')
  expect(await ask('ensure_partitions(9)')).toBe(7)
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
  await db.query('select leasehold.write_notes($1, $2)', [worker, '[]'])
  await ask('rotate_partitions()')
  const kept = await insertTask(db, stage)
  expect(await drop()).toBe(false)
  await endAll()
  expect(await drop()).toBe(true)
  expect(await stateOf(db, ids[0]!)).toBe('unknown')
  expect(await stateOf(db, kept)).toBe('done')
  const { rows } = await db.query<{
    n: number
  }>(`select count(*)::int as n from pg_class where relname ~ '_${base}$'
    and relnamespace = 'leasehold'::regnamespace and relkind = 'r'`)
  expect(rows).toEqual([{ n: 0 }])
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
    await database.advance(7_200_000)
    await settleDone(db, worker, await claim(db, worker, stage))
  },
}

test.each(Object.keys(waysToBeNeeded))('a range stays while a task of it %s', async (way) => {
  const id = await insertTask(db, stage)
  await waysToBeNeeded[way]!(id)
  await ask('rotate_partitions()')
  if (way === 'ended only now')
    await db.query(`update leasehold.partitions set closed_at = closed_at - interval '1 day'`)
  else await database.advance(7_200_000)
  expect(await drop()).toBe(false)
  expect(await stateOf(db, id)).not.toBe('unknown')
})

test('a range stays until the children of its tasks have heard of their end', async () => {
  const parent = await insertTask(db, stage)
  await ask('rotate_partitions()')
  const children = await addStage(db)
  const child = await insertTask(db, children, { depends_on: [parent] })
  await endAll()
  expect(await drop()).toBe(false)
  await db.query('select leasehold.process_nudges($1)', [[children]])
  expect(await drop()).toBe(true)
  expect(await stateOf(db, child)).toBe('ready')
})

test('a task that is reopened while its range is about to go keeps the range', async () => {
  const id = await insertTask(db, stage)
  await db.query('select leasehold.cancel_task($1)', [id])
  await ask('rotate_partitions()')
  await database.advance(86_400_000)
  const [operator, retention] = [await database.client(), await database.client()]
  await operator.query('begin')
  await operator.query('select leasehold.retry_task($1)', [id])
  const dropping = retention.query<{ dropped: string[] }>(
    `select leasehold.drop_partitions(leasehold.clock() - interval '1 hour') as dropped`,
  )
  await untilBlocked(db, retention, dropping)
  await operator.query('commit')
  expect((await dropping).rows[0]!.dropped).not.toContain(String(base))
  expect(await stateOf(db, id)).toBe('ready')
})

test('two that rotate at once do not both jump', async () => {
  await insertTask(db, stage)
  const session = await database.client()
  await session.query('begin')
  await session.query('select leasehold.rotate_partitions()')
  expect(await ask('rotate_partitions()')).toBeNull()
  expect(await ask('ensure_partitions(9)')).toBe(0)
  expect(await drop()).toBe(false)
  await session.query('commit')
})
