/**
 * Ranges of ids that are closed: dropped with everything of their tasks when nothing in them is needed, kept as long as
 * anything is, whoever comes in between.
 */
import type { Client } from 'pg'
import { expect, test } from 'vitest'
import {
  ask,
  base,
  database,
  db,
  drop,
  endAll,
  endedLongAgo,
  firstIds,
  hour,
  partitionOf,
  sessions,
  stage,
  tablesLeft,
  worker,
  useRanges,
} from './partition-scene.ts'
import {
  addStage,
  addWorker,
  claim,
  claimOne,
  insertTask,
  insertTasks,
  settle,
  settleDone,
  stateOf,
  untilBlocked,
} from './scene.ts'

useRanges()

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

/** Tries to drop the log lines of the test's range; why they stay, or null. */
function dropLogs(): Promise<string | null> {
  return ask(`drop_range_logs($1, leasehold.clock() - interval '1 hour')`, base)
}

test('log lines may go before their tasks, once these have ended; a later retry writes new ones', async () => {
  const id = await insertTask(db, stage)
  const lease = await claimOne(db, worker, stage)
  const note = (message: string, fence: string): string =>
    JSON.stringify([{ task_id: id, fence, kind: 'log', message }])
  await db.query('select leasehold.write_notes($1, $2)', [worker, note('old', lease.fence)])
  await ask('rotate_partitions()')
  await database.advance(2 * hour)
  expect(await dropLogs()).toMatch(/unfinished/)
  await settle(db, worker, lease, 'fail', { retryable: false })
  expect(await dropLogs()).toMatch(/last task ended/)
  await database.advance(2 * hour)
  expect(await dropLogs()).toBeNull()
  expect(await stateOf(db, id)).toBe('dead')
  await ask('retry_task($1)', id)
  const again = await claimOne(db, worker, stage)
  await db.query('select leasehold.write_notes($1, $2)', [worker, note('new', again.fence)])
  const { rows } = await db.query('select message from leasehold.task_logs where task_id = $1', [id])
  expect(rows).toEqual([{ message: 'new' }])
})
