/**
 * What a failed, given back or put off attempt leads to: delays within their bounds, attempts counted once.
 *
 * Time is the movable clock's. Handlers are played by plain verbs. Attempts that kill their worker: quarantine.test.ts.
 */
import type { Db } from '@leasehold/queue'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import {
  addStage,
  addWorker,
  beat,
  claim,
  claimOne,
  insertTask,
  insertTasks,
  outcomesOf,
  problems,
  settle,
  stateOf,
} from './scene.ts'

let database: TestDatabase
let db: Db

beforeAll(async () => {
  database = await createTestDatabase()
  db = database.pool
})
afterAll(() => database.drop())
beforeEach(() => async () => expect(await problems(db)).toEqual([]))

/** Milliseconds until a scheduled task is due, by the database's clock. */
async function delayOf(taskId: string): Promise<number> {
  const { rows } = await db.query<{ ms: number }>(
    `select extract(epoch from s.run_at - a.ended_at)::float8 * 1000 as ms from leasehold.scheduled s
     join leasehold.attempts a on a.task_id = s.task_id where s.task_id = $1 order by a.fence desc limit 1`,
    [taskId],
  )
  return rows[0]!.ms
}

test.each([
  ['5 s', '30 s'],
  ['10 s', '30 days'],
  ['30 days', '30 days'],
  ['0', '0'],
  ['0', '1 hour'],
  ['1 month', '30 days'],
  ['0.000001 s', '30 days'],
])('the backoff from %s to %s stays within them for any number of failures', async (min, max) => {
  const { rows } = await db.query<{ failures: number }>(
    `select failures, min(delay), max(delay) from (
       select f.failures, leasehold.backoff(f.failures, $1, $2) as delay
       from unnest(array[-1, 0, 1, 2, 3, 10, 40, 41, 42, 999, 1000000, 2147483647]) as f(failures), generate_series(1, 50)) d
     group by failures
     having min(delay) < $1 or max(delay) > $2
       or min(delay) < least($2::interval, $1::interval * power(2, least(greatest(failures, 1), 3))) / 2 - interval '1 us'`,
    [min, max],
  )
  expect(rows).toEqual([])
})

test('the backoff doubles and differs from task to task', async () => {
  const { rows } = await db.query<{ failures: number; least: number; most: number; different: string }>(
    `select failures, extract(epoch from min(d))::float8 as least, extract(epoch from max(d))::float8 as most,
       count(distinct d) as different
     from (select f.failures, leasehold.backoff(f.failures, '5 s', '30 s') as d
           from (values (1), (2), (3), (9)) f(failures), generate_series(1, 500)) x
     group by 1 order by 1`,
  )
  const bounds = [
    [5, 10],
    [10, 20],
    [15, 30],
    [15, 30],
  ]
  for (const [i, [least, most]] of bounds.entries()) {
    const row = rows[i]!
    expect(row.least).toBeGreaterThanOrEqual(least!)
    expect(row.most).toBeLessThanOrEqual(most!)
    expect(row.most - row.least).toBeGreaterThan((most! - least!) * 0.9)
    expect(Number(row.different)).toBeGreaterThan(450)
  }
})

test('by default a task has three attempts, the second after 5 to 10 s and the third after 10 to 20 s', async ({
  onTestFinished,
}) => {
  await database.stopClock()
  onTestFinished(() => database.startClock())
  const stage = await addStage(db)
  const worker = await addWorker(db, [stage], { ttl: '1 day' })
  const id = await insertTask(db, stage)
  for (const [attempt, least, most] of [
    [1, 5000, 10_000],
    [2, 10_000, 20_000],
  ] as const) {
    const lease = await claimOne(db, worker, stage)
    expect(lease.attempt).toBe(attempt)
    await settle(db, worker, lease, 'fail', { error: { code: 'no', message: 'not yet' } })
    expect(await delayOf(id)).toBeGreaterThanOrEqual(least)
    expect(await delayOf(id)).toBeLessThanOrEqual(most)
    expect(await claim(db, worker, stage)).toEqual([])
    await database.advance(most)
  }
  const last = await claimOne(db, worker, stage)
  expect(last.attempt).toBe(3)
  await settle(db, worker, last, 'fail', { error: { code: 'no', message: 'never' } })
  expect(await stateOf(db, id)).toBe('dead')
  expect(await outcomesOf(db, id)).toEqual(['retry', 'retry', 'dead'])
})

test('a task’s own max_attempts goes before its stage’s', async () => {
  const stage = await addStage(db, { max_attempts: 5 })
  const worker = await addWorker(db, [stage])
  const id = await insertTask(db, stage, { max_attempts: 1 })
  await settle(db, worker, await claimOne(db, worker, stage), 'fail')
  expect(await stateOf(db, id)).toBe('dead')
})

test('a task that has failed 999 times settles like any other', async () => {
  const stage = await addStage(db, { max_attempts: 1000, backoff_min: '12 s', backoff_max: '1 hour' })
  const worker = await addWorker(db, [stage], { ttl: '1 day' })
  const id = await insertTask(db, stage)
  await db.query('update leasehold.ready set failures = 998 where task_id = $1', [id])
  const lease = await claimOne(db, worker, stage)
  expect(lease.attempt).toBe(999)
  expect(await settle(db, worker, lease, 'fail')).toBe(true)
  expect(await delayOf(id)).toBeLessThanOrEqual(3_600_000)
  await database.advance(3_600_000)
  await beat(db, worker)
  expect(await settle(db, worker, await claimOne(db, worker, stage), 'fail')).toBe(true)
  expect(await stateOf(db, id)).toBe('dead')
})

test('releases, snoozes and dead workers burn no attempt', async () => {
  const stage = await addStage(db, { max_attempts: 1, max_crashes: 100 })
  const id = await insertTask(db, stage)
  for (let i = 0; i < 5; i++) {
    for (const how of ['release', 'snooze', 'crash'] as const) {
      const worker = await addWorker(db, [stage], { slot: 'the-slot' })
      const lease = await claimOne(db, worker, stage)
      expect(lease.attempt).toBe(1)
      if (how !== 'crash') await settle(db, worker, lease, how)
      else await addWorker(db, [stage], { slot: 'the-slot' })
      if (how === 'snooze') await database.advance(1000)
    }
  }
  expect(await stateOf(db, id)).toBe('ready')
  const outcomes = await outcomesOf(db, id)
  expect(new Set(outcomes)).toEqual(new Set(['released', 'snoozed', 'lost']))
  expect(outcomes).toHaveLength(15)
})

test('a worker that leaves in order gives its tasks back without a crash or an attempt', async () => {
  const stage = await addStage(db)
  const worker = await addWorker(db, [stage])
  const id = await insertTask(db, stage)
  await claimOne(db, worker, stage)
  await db.query('select leasehold.leave($1)', [worker])
  const { rows } = await db.query('select failures, crashes, lane from leasehold.ready where task_id = $1', [
    id,
  ])
  expect(rows).toEqual([{ failures: 0, crashes: 0, lane: 10 }])
})

test('what is not retryable is dead at once, whatever attempts are left', async () => {
  const stage = await addStage(db, { max_attempts: 100 })
  const worker = await addWorker(db, [stage])
  const id = await insertTask(db, stage)
  await settle(db, worker, await claimOne(db, worker, stage), 'fail', {
    retryable: false,
    retry_after: '1 s',
  })
  expect(await outcomesOf(db, id)).toEqual(['dead'])
})

test.each([
  ['fail', '7 minutes', 420_000],
  ['fail', '0', 0],
  ['fail', '-5 minutes', 0],
  ['fail', '100 years', 30 * 86_400_000],
  ['snooze', '7 minutes', 420_000],
  ['snooze', '0', 1000],
  ['snooze', '-1 day', 1000],
  ['snooze', '100 years', 30 * 86_400_000],
  ['snooze', undefined, 1000],
] as const)('%s with retry_after %s waits %s ms', async (ending, after, ms) => {
  const stage = await addStage(db)
  const worker = await addWorker(db, [stage])
  const id = await insertTask(db, stage)
  const lease = await claimOne(db, worker, stage)
  await settle(db, worker, lease, ending, after === undefined ? {} : { retry_after: after })
  if (ms === 0) expect(await stateOf(db, id)).toBe('ready')
  else expect(await delayOf(id)).toBe(ms)
})

test('delays that are no whole or no sane numbers do not stop a batch of endings', async () => {
  const stage = await addStage(db)
  const worker = await addWorker(db, [stage])
  await insertTasks(db, stage, 5)
  const leases = await claim(db, worker, stage, 5)
  const delays = ['1.5', '1e300', '-1e300', 'null', '0']
  const endings = leases.map(
    (lease, i) =>
      `{"task_id":"${lease.taskId}","fence":"${lease.fence}","outcome":"fail","after_ms":${delays[i]}}`,
  )
  const { rows } = await db.query<{ receipt: unknown }>(
    `select extra::jsonb as receipt
     from leasehold.exchange($1, null, null, $2, null, null, null, null, null, false, null)`,
    [worker, `[${endings.join(',')}]`],
  )
  expect(rows[0]!.receipt).toEqual({ worker: 'live' })
})

test('changed settings hold from the next transition on', async () => {
  const stage = await addStage(db, { max_attempts: 1 })
  const worker = await addWorker(db, [stage])
  const id = await insertTask(db, stage)
  const lease = await claimOne(db, worker, stage)
  await db.query('select leasehold.register_stage($1, p_max_attempts => 2)', [stage])
  await settle(db, worker, lease, 'fail')
  expect(await stateOf(db, id)).toBe('scheduled')
})

test('a lease past its deadline is a failed attempt, and its live worker is told', async ({
  onTestFinished,
}) => {
  await database.stopClock()
  onTestFinished(() => database.startClock())
  const stage = await addStage(db, { timeout: '1 minute', max_attempts: 2 })
  const worker = await addWorker(db, [stage], { ttl: '1 day' })
  const id = await insertTask(db, stage, { timeout: '2 minutes' })
  const lease = await claimOne(db, worker, stage)
  const sweep = async (): Promise<string[]> => {
    const { rows } = await db.query<{ ids: string[] }>('select leasehold.expire_deadlines() as ids')
    return rows[0]!.ids
  }
  await database.advance(124_000)
  expect(await sweep()).toEqual([]) // its worker has five seconds to say so itself
  await database.advance(2000)
  expect(await sweep()).toEqual([id])
  expect(await sweep()).toEqual([])
  const { rows } = await db.query(
    `select outcome, attempt, error ->> 'code' as code from leasehold.attempts where task_id = $1`,
    [id],
  )
  expect(rows).toEqual([{ outcome: 'retry', attempt: 1, code: 'timeout' }])
  const told = await db.query('select revoked from leasehold.heartbeat($1)', [worker])
  expect(told.rows).toEqual([{ revoked: [{ task_id: id, fence: lease.fence, reason: 'deadline' }] }])
})

test('a second life starts with all attempts and no crashes', async () => {
  const stage = await addStage(db, { max_attempts: 2, max_crashes: 2 })
  const id = await insertTask(db, stage)
  let worker = await addWorker(db, [stage], { slot: 'second-life' })
  await claimOne(db, worker, stage)
  worker = await addWorker(db, [stage], { slot: 'second-life' })
  await settle(db, worker, await claimOne(db, worker, stage), 'fail', { retryable: false })
  await db.query('select leasehold.retry_task($1)', [id])
  const { rows } = await db.query('select failures, crashes, lane from leasehold.ready where task_id = $1', [
    id,
  ])
  expect(rows).toEqual([{ failures: 0, crashes: 0, lane: 5 }])
  expect((await claimOne(db, worker, stage)).attempt).toBe(1)
})
