/**
 * Leases that their worker does not know of are never stuck: given back or ended by the worker's own look, ended by
 * housekeeping when the worker looks past them, and shown as a violation until then.
 *
 * A worker is played by plain verbs; that the runner looks is packages/runner/test/outage.test.ts.
 */
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { type Lease, addStage, addWorker, beat, claimOne, insertTask, outcomesOf, problems, settle, stateOf } from './scene.ts' // prettier-ignore

let db: TestDatabase
let stage: string
let worker: string

beforeEach(async () => {
  db = await createTestDatabase()
  stage = await addStage(db.pool, { timeout: '1 minute', backoff_min: '1 hour', backoff_max: '1 hour' })
  worker = await addWorker(db.pool, [stage], { ttl: '1 day' })
})
afterEach(() => db.drop())

async function leased(): Promise<Lease> {
  await insertTask(db.pool, stage)
  return claimOne(db.pool, worker, stage)
}

async function ids(sql: string, values: unknown[]): Promise<string[] | null> {
  const { rows } = await db.pool.query<{ ids: string[] | null }>(`select ${sql}::text[] as ids`, values)
  return rows[0]!.ids
}

const strays = (...known: { taskId: string; fence: string }[]): Promise<string[] | null> =>
  ids('leasehold.return_strays($1, $2, $3)', [worker, known.map((l) => l.taskId), known.map((l) => l.fence)])

async function lookPast({ fence }: Lease): Promise<void> {
  await db.pool.query('select leasehold.heartbeat($1, 0, $2::bigint + 1, 0)', [worker, fence])
}

async function violations(): Promise<string[]> {
  const { rows } = await db.pool.query<{ violation: string; task_id: string }>(
    'select violation, task_id from leasehold.invariant_violations',
  )
  return rows.map((row) => `${row.task_id}: ${row.violation}`)
}

const end = (): Promise<string[] | null> => ids('leasehold.end_forgotten_leases()', [])

test.each([
  ['by lease', (): Promise<string[] | null> => strays()],
  ['by task, as older workers do', () => ids('leasehold.return_strays($1, $2)', [worker, []])],
])('a stray past its deadline ends as a timeout, one before it is given back (%s)', async (_, look) => {
  const overdue = await leased()
  await db.advance(61_000)
  const fresh = await leased()
  expect((await look())?.toSorted()).toEqual([overdue.taskId, fresh.taskId].toSorted())
  expect(await stateOf(db.pool, overdue.taskId)).toBe('scheduled')
  expect(await outcomesOf(db.pool, overdue.taskId)).toEqual(['retry'])
  const { rows } = await db.pool.query("select error ->> 'code' as code from leasehold.attempts where task_id = $1", [
    overdue.taskId,
  ]) // prettier-ignore
  expect(rows).toEqual([{ code: 'timeout' }])
  expect(await stateOf(db.pool, fresh.taskId)).toBe('ready')
  expect(await outcomesOf(db.pool, fresh.taskId)).toEqual(['released'])
  expect(await look()).toEqual([])
  expect(await problems(db.pool)).toEqual([])
})

test('a task that is held under an old fence does not hide its new lease', async () => {
  const old = await leased()
  await settle(db.pool, worker, old, 'release')
  const anew = await claimOne(db.pool, worker, stage)
  expect(anew.taskId).toBe(old.taskId)
  expect(await strays(old)).toEqual([anew.taskId])
  expect(await stateOf(db.pool, old.taskId)).toBe('ready')
})

test('a known lease stays, whether its deadline has passed or not', async () => {
  const lease = await leased()
  expect(await strays(lease)).toEqual([])
  await db.advance(61_000)
  expect(await strays(lease)).toEqual([])
  expect(await stateOf(db.pool, lease.taskId)).toBe('running')
})

test('a lease that its worker looks past is a violation, and ends as a timeout when it is overdue', async () => {
  const lease = await leased()
  await lookPast(lease)
  expect(await violations()).toEqual([`${lease.taskId}: lease that its worker has forgotten`])
  // The server of the tests has just started: what workers could not settle before that has a minute.
  await db.advance(61_000)
  expect(await end()).toEqual([])
  await db.advance(61_000)
  expect(await end()).toEqual([lease.taskId])
  expect(await stateOf(db.pool, lease.taskId)).toBe('scheduled')
  expect(await outcomesOf(db.pool, lease.taskId)).toEqual(['retry'])
  const { rows } = await db.pool.query<{ revoked: { task_id: string }[] }>('select revoked from leasehold.heartbeat($1)', [
    worker,
  ]) // prettier-ignore
  expect(rows[0]!.revoked.map((one) => one.task_id)).toEqual([lease.taskId])
  expect(await end()).toEqual([])
  expect(await problems(db.pool)).toEqual([])
})

test('a lease that nobody ends minutes after its deadline is a violation where a monitor looks', async () => {
  const lease = await leased()
  await db.advance(10 * 60_000)
  expect(await beat(db.pool, worker)).toBe('live')
  expect(await violations()).toEqual([])
  const monitor = (): Promise<unknown> =>
    db.pool.query(
      "select leasehold.monitor_beat('00000000-0000-4000-8000-000000000001', 'host.test', 1, 'test', 60000)",
    )
  await monitor()
  expect(await violations()).toEqual([]) // it has only begun to look
  for (let minute = 0; minute < 4; minute++) {
    await db.advance(60_000)
    await monitor()
  }
  expect(await violations()).toEqual([`${lease.taskId}: lease far past its deadline`])
  await db.pool.query('select leasehold.expire_deadlines()')
  expect(await violations()).toEqual([])
})
