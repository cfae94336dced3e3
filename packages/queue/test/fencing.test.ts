/**
 * A lease is written about by its holder only, and only while it holds: zombies change nothing and never come back.
 *
 * Every way to lose a lease × everything a worker may write. Who wins when both happen at once: release-races.test.ts.
 * All single verbs in all states: state-verb-walk.test.ts.
 */
import type { Db } from '@leasehold/queue'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import {
  type Ending,
  type Lease,
  addStage,
  addWorker,
  beat,
  claim,
  claimOne,
  insertTask,
  insertTasks,
  problems,
  releaseDead,
  settle,
  settleDone,
  snapshot,
  stateOf,
} from './scene.ts'

let database: TestDatabase
let db: Db
let stage: string

beforeAll(async () => {
  database = await createTestDatabase()
  db = database.pool
})
afterAll(() => database.drop())
beforeEach(async () => {
  stage = await addStage(db, { timeout: '10 minutes' })
  return async () => {
    expect(await problems(db)).toEqual([])
    // What a test left behind must not be somebody else's dead worker.
    await db.query(`select leasehold.leave(id) from leasehold.workers where ended_at is null`)
  }
})

async function expiryOf(worker: string): Promise<Date> {
  const { rows } = await db.query<{ at: Date }>(
    'select expires_at as at from leasehold.workers where id = $1',
    [worker],
  )
  return rows[0]!.at
}

/** The receipt of an exchange that brings nothing and asks for nothing. */
async function receiptOf(worker: string): Promise<{ worker: string; reason?: string; revoked?: object[] }> {
  const { rows } = await db.query<{ receipt: { worker: string } }>(
    `select extra::jsonb as receipt
     from leasehold.exchange($1, null, null, null, null, null, null, null, null, false, null)`,
    [worker],
  )
  return rows[0]!.receipt
}

interface Zombie {
  readonly worker: string
  readonly lease: Lease
  /** Who holds the task now; null when nobody does. */
  readonly holder: string | null
}

async function workerWithLease(): Promise<{ worker: string; lease: Lease }> {
  const worker = await addWorker(db, [stage])
  await insertTask(db, stage)
  return { worker, lease: await claimOne(db, worker, stage) }
}

async function takenOver(z: { worker: string; lease: Lease }): Promise<Zombie> {
  const holder = await addWorker(db, [stage], { ttl: '1 hour' })
  expect((await claimOne(db, holder, stage)).taskId).toBe(z.lease.taskId)
  return { ...z, holder }
}

const waysToLoseALease: Record<string, () => Promise<Zombie>> = {
  'it was declared dead and another one has its task': async () => {
    const z = await workerWithLease()
    await database.advance(31_000)
    await releaseDead(db)
    return takenOver(z)
  },
  'its slot was started again': async () => {
    const worker = await addWorker(db, [stage], { slot: 'taken' })
    await insertTask(db, stage)
    const lease = await claimOne(db, worker, stage)
    const holder = await addWorker(db, [stage], { slot: 'taken' })
    expect((await claimOne(db, holder, stage)).taskId).toBe(lease.taskId)
    return { worker, lease, holder }
  },
  'it lives but its lease ran out of time': async () => {
    const z = await workerWithLease()
    await database.advance(606_000)
    await beat(db, z.worker)
    await db.query('select leasehold.expire_deadlines()')
    await db.query('select leasehold.run_now($1)', [z.lease.taskId])
    await beat(db, z.worker) // takes the revocation
    return takenOver(z)
  },
  'it gave the task back and claimed it again': async () => {
    const z = await workerWithLease()
    await settle(db, z.worker, z.lease, 'release')
    const again = await claimOne(db, z.worker, stage)
    expect(again.attempt).toBe(z.lease.attempt) // which is why an attempt is no fence
    return { ...z, holder: z.worker }
  },
  'its task was cancelled': async () => {
    const z = await workerWithLease()
    await db.query('select leasehold.cancel_task($1)', [z.lease.taskId])
    await beat(db, z.worker)
    return { ...z, holder: null }
  },
  'its task was cancelled and has a second life': async () => {
    const z = await workerWithLease()
    await db.query('select leasehold.cancel_task($1)', [z.lease.taskId])
    await db.query('select leasehold.retry_task($1)', [z.lease.taskId])
    await beat(db, z.worker)
    return takenOver(z)
  },
}

const endings: Ending[] = ['done', 'fail', 'release', 'snooze', 'cancel']

test.each(Object.keys(waysToLoseALease))('whatever a worker writes after %s is refused', async (way) => {
  const { worker, lease, holder } = await waysToLoseALease[way]!()
  const before = await snapshot(db)
  const expiry = holder === null ? null : await expiryOf(holder)

  for (const ending of endings) {
    expect(await settle(db, worker, lease, ending, { result: 1, children: [{ stage }] })).toBe(false)
  }
  expect(await settleDone(db, worker, [lease])).toEqual([lease.taskId])
  const notes = ['log', 'progress', 'checkpoint'].map((kind) => ({
    task_id: lease.taskId,
    fence: lease.fence,
    kind,
    name: 'n',
    message: 'm',
  }))
  const { rows } = await db.query<{ written: number }>('select leasehold.write_notes($1, $2) as written', [
    worker,
    JSON.stringify(notes),
  ])
  expect(rows[0]!.written).toBe(0)
  if (holder !== worker) await beat(db, worker)

  expect(await snapshot(db)).toEqual(before)
  if (holder !== null) expect(await expiryOf(holder)).toEqual(expiry)
})

test('a zombie that finishes late does not let one more task of its key in', async () => {
  stage = await addStage(db, { key_limit: 2 })
  const worker = await addWorker(db, [stage])
  for (let i = 0; i < 5; i++) await insertTask(db, stage, { concurrency_key: 'k' })
  const leases = await claim(db, worker, stage, 5)
  expect(leases).toHaveLength(2)
  await database.advance(31_000)
  await releaseDead(db)
  const other = await addWorker(db, [stage], { ttl: '1 hour' })
  expect(await claim(db, other, stage, 5)).toHaveLength(2)

  expect(await settleDone(db, worker, leases)).toHaveLength(2)
  for (const lease of leases) expect(await settle(db, worker, lease, 'done')).toBe(false)
  expect(await claim(db, other, stage, 5)).toEqual([])
})

test('a task cancelled during its run stays cancelled, and its worker is told once', async () => {
  const { worker, lease } = await workerWithLease()
  await db.query('select leasehold.cancel_task($1)', [lease.taskId])
  expect(await settle(db, worker, lease, 'done')).toBe(false)
  expect(await stateOf(db, lease.taskId)).toBe('cancelled')
  const told = { task_id: lease.taskId, fence: lease.fence, reason: 'cancelled' }
  expect((await receiptOf(worker)).revoked).toEqual([told])
  expect((await receiptOf(worker)).revoked).toBeUndefined()
})

test('a beat tells of a revoked lease, once', async () => {
  const { worker, lease } = await workerWithLease()
  await db.query('select leasehold.cancel_task($1)', [lease.taskId])
  await claim(db, worker, stage) // these read no receipt, and take nothing from who does
  await settle(db, worker, lease, 'done')
  const beats = async (): Promise<unknown> =>
    (await db.query('select revoked from leasehold.heartbeat($1)', [worker])).rows[0]
  expect(await beats()).toEqual({
    revoked: [{ task_id: lease.taskId, fence: lease.fence, reason: 'cancelled' }],
  })
  expect(await beats()).toEqual({ revoked: null })
})

test('a worker that expired and was not released may beat and go on', async () => {
  const { worker, lease } = await workerWithLease()
  await database.advance(31_000)
  expect(await receiptOf(worker)).toMatchObject({ worker: 'expired' })
  expect(await settle(db, worker, lease, 'done')).toBe(false)
  expect(await claim(db, worker, stage)).toEqual([])
  expect(await beat(db, worker)).toBe('live')
  expect(await settle(db, worker, lease, 'done')).toBe(true)
})

test.each([
  ['lost', async () => void (await database.advance(31_000), await releaseDead(db))],
  ['superseded', async () => void (await addWorker(db, [stage], { slot: 'the-slot' }))],
  [
    'graceful-shutdown',
    async (worker: string) => void (await db.query('select leasehold.leave($1)', [worker])),
  ],
] as const)('a worker that ended (%s) never comes back to life', async (reason, end) => {
  const worker = await addWorker(db, [stage], { slot: 'the-slot' })
  await insertTask(db, stage)
  await end(worker)
  expect(await receiptOf(worker)).toMatchObject({ worker: 'ended', reason })
  expect(await beat(db, worker)).toBe('ended')
  expect(await claim(db, worker, stage)).toEqual([])
  const { rows } = await db.query<{ left: boolean }>('select leasehold.leave($1) as left', [worker])
  expect(rows[0]!.left).toBe(false)
  expect(await receiptOf(worker)).toMatchObject({ worker: 'ended', reason })
})

test('starting a slot again frees its tasks at once, under a new worker id, and counts the restart', async () => {
  const first = await addWorker(db, [stage], { slot: 'again' })
  const ids = await insertTasks(db, stage, 3)
  await claim(db, first, stage, 3)
  const { rows } = await db.query<{ worker_id: string; superseded: string; released: string[] }>(
    `select worker_id, superseded, released from leasehold.register_worker('again', $1, '30 s', '10 s', 'host.test')`,
    [[stage]],
  )
  expect(rows[0]).toMatchObject({ superseded: first, released: ids })
  expect(rows[0]!.worker_id).not.toBe(first)
  expect((await claim(db, rows[0]!.worker_id, stage, 5)).map((lease) => lease.taskId)).toEqual(ids)
  const health = await db.query<{ restarts: number }>(
    "select restarts from leasehold.worker_health where slot = 'again'",
  )
  expect(health.rows).toEqual([{ restarts: 1 }])
})

test('a registration that is sent again because its answer was lost is the same one, and nobody died', async () => {
  const register = async (start: string): Promise<{ worker_id: string; superseded: string | null }> => {
    const { rows } = await db.query<{ worker_id: string; superseded: string | null }>(
      `select worker_id, superseded from leasehold.register_worker('twice', $1, '30 s', '10 s', 'host.test',
         p_meta => jsonb_build_object('start', $2::text))`,
      [[stage], start],
    )
    return rows[0]!
  }
  const first = await register('one start')
  expect(await register('one start')).toEqual(first)
  const { rows } = await db.query("select restarts, end_reason from leasehold.workers where slot = 'twice'")
  expect(rows).toEqual([{ restarts: 0, end_reason: null }])
  expect(await register('another start')).toMatchObject({ superseded: first.worker_id })
})
