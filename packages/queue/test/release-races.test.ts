/**
 * Writing and releasing at the same moment: the living lose nothing, the dead change nothing, each task goes on once.
 *
 * Races are played by real sessions. Where the moment between a statement's look and its lock matters, this file's
 * database has a clock with a gate: a session that asks to be stopped waits inside clock(), after its snapshot was taken.
 * What a worker may write after it has lost: fencing.test.ts.
 */
import type { Db } from '@leasehold/queue'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { gateClock, stoppedAtTheClock } from './gate.ts'
import {
  type Lease,
  addStage,
  addWorker,
  beat,
  claim,
  claimOne,
  insertTask,
  insertTasks,
  outcomesOf,
  problems,
  releaseDead,
  seeded,
  settle,
  snapshot,
  stateOf,
  untilBlocked,
} from './scene.ts'

let database: TestDatabase
let db: Db
let stage: string

beforeAll(async () => {
  database = await createTestDatabase()
  db = database.pool
  await gateClock(database)
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

async function workerWithLease(): Promise<{ worker: string; lease: Lease }> {
  const worker = await addWorker(db, [stage])
  await insertTask(db, stage)
  return { worker, lease: await claimOne(db, worker, stage) }
}

test('a worker that beats between the monitor’s look and its lock is not released', async () => {
  const worker = await addWorker(db, [stage])
  await insertTask(db, stage)
  const lease = await claimOne(db, worker, stage)
  await database.advance(31_000)
  const release = await stoppedAtTheClock(database, releaseDead)
  expect(await beat(db, worker)).toBe('live')
  expect(await release.resume()).toEqual([])
  expect(await settle(db, worker, lease, 'done')).toBe(true)
})

test('a lease that failed and was claimed anew while the deadline sweep looked is left alone', async () => {
  const [worker, other] = [await addWorker(db, [stage]), await addWorker(db, [stage], { ttl: '1 hour' })]
  const taskId = await insertTask(db, stage)
  const first = await claimOne(db, worker, stage)
  await database.advance(601_000)
  await beat(db, worker)
  const sweep = await stoppedAtTheClock(database, (session) =>
    session.query<{ ended: string[] }>(`select leasehold.expire_deadlines(p_slack => '0') as ended`),
  )
  expect(await settle(db, worker, first, 'fail', { retry_after: '0' })).toBe(true)
  const second = await claimOne(db, other, stage)
  expect((await sweep.resume()).rows[0]!.ended).toEqual([])
  expect(second.taskId).toBe(taskId)
  expect(await settle(db, other, second, 'done')).toBe(true)
  expect(await outcomesOf(db, taskId)).toEqual(['retry', 'done'])
})

test.each([
  ['commits', 'commit', false, 'done'],
  ['rolls back', 'rollback', true, 'cancelled'],
] as const)(
  'a cancel that meets an open settlement waits; when that one %s, the task has one end',
  async (_, end, cancelled, state) => {
    const { worker, lease } = await workerWithLease()
    const [settling, operator] = [await database.client(), await database.client()]
    await settling.query('begin')
    expect(await settle(settling, worker, lease, 'done')).toBe(true)
    const cancel = operator.query<{ ended: boolean }>('select leasehold.cancel_task($1) as ended', [
      lease.taskId,
    ])
    await untilBlocked(db, operator, cancel)
    await settling.query(end)
    expect((await cancel).rows[0]!.ended).toBe(cancelled)
    expect(await stateOf(db, lease.taskId)).toBe(state)
    expect(await outcomesOf(db, lease.taskId)).toEqual([state])
  },
)

test('two processes that start the same slot at once leave one worker alive', async () => {
  const workers = await Promise.all([1, 2, 3, 4].map(() => addWorker(db, [stage], { slot: 'contended' })))
  const states = await Promise.all(workers.map((worker) => beat(db, worker)))
  expect(states.filter((state) => state === 'live')).toHaveLength(1)
  expect(states.filter((state) => state === 'ended')).toHaveLength(3)
})

test('an exchange that waited past its worker’s expiry settles nothing', async () => {
  const { worker, lease } = await workerWithLease()
  const [blocker, session] = [await database.client(), await database.client()]
  await blocker.query('begin')
  await blocker.query('select from leasehold.workers where id = $1 for update', [worker])
  const before = await snapshot(db)
  const settled = settle(session, worker, lease, 'done')
  await untilBlocked(db, session, settled)
  await database.advance(31_000)
  await blocker.query('commit')
  expect(await settled).toBe(false)
  expect(await snapshot(db)).toEqual(before)
})

test('an exchange that meets the release of its own worker is refused when that commits', async () => {
  const { worker, lease } = await workerWithLease()
  const [monitor, session] = [await database.client(), await database.client()]
  await database.advance(31_000)
  await monitor.query('begin')
  expect(await releaseDead(monitor)).toEqual([worker])
  const settled = settle(session, worker, lease, 'done')
  await untilBlocked(db, session, settled)
  await monitor.query('commit')
  expect(await settled).toBe(false)
  expect(await stateOf(db, lease.taskId)).toBe('ready')
  expect(await outcomesOf(db, lease.taskId)).toEqual(['lost'])
})

test('a look that began before its worker was superseded claims nothing', async () => {
  const worker = await addWorker(db, [stage], { slot: 'looking' })
  await insertTasks(db, stage, 2)
  const look = await stoppedAtTheClock(database, (session) =>
    session.query(
      `select task_id from leasehold.exchange($1, null, null, null, null, null, $2, '{2}', null, null, null)
       where task_id is not null`,
      [worker, [stage]],
    ),
  )
  await addWorker(db, [stage], { slot: 'looking' })
  expect((await look.resume()).rows).toEqual([])
  const { rowCount } = await db.query('select from leasehold.ready where stage = $1', [stage])
  expect(rowCount).toBe(2)
})

test('a settlement in an open transaction is not overtaken by the release of its worker', async () => {
  const { worker, lease } = await workerWithLease()
  const session = await database.client()
  await session.query('begin')
  expect(await settle(session, worker, lease, 'done')).toBe(true)
  await database.advance(31_000)
  expect(await releaseDead(db)).toEqual([])
  await session.query('commit')
  expect(await releaseDead(db)).toEqual([worker])
  expect(await outcomesOf(db, lease.taskId)).toEqual(['done'])
})

test('a release that is repeated, or runs in four sessions at once, releases each task once', async () => {
  const workers = await Promise.all([1, 2, 3, 4, 5].map(() => addWorker(db, [stage])))
  const ids = await insertTasks(db, stage, 50)
  for (const worker of workers) await claim(db, worker, stage, 10)
  await database.advance(31_000)
  const released = await Promise.all([1, 2, 3, 4].map(() => releaseDead(db)))
  expect(released.flat().toSorted()).toEqual(workers.toSorted())
  expect(await releaseDead(db)).toEqual([])
  const { rows } = await db.query<{ n: string; once: boolean }>(
    `select count(*) as n, bool_and(crashes = 1) as once from leasehold.ready where task_id = any ($1)`,
    [ids],
  )
  expect(rows).toEqual([{ n: '50', once: true }])
})

test('a revocation for a worker that ended at that moment is tidied away', async () => {
  const { worker, lease } = await workerWithLease()
  const [operator, leaving] = [await database.client(), await database.client()]
  await operator.query('begin')
  await operator.query('select leasehold.cancel_task($1)', [lease.taskId])
  const left = leaving.query('select leasehold.leave($1)', [worker])
  await untilBlocked(db, leaving, left)
  await operator.query('commit')
  await left
  const revocations = async (): Promise<number | null> =>
    (await db.query('select from leasehold.revocations where worker_id = $1', [worker])).rowCount
  expect(await revocations()).toBe(1)
  await db.query('select leasehold.tidy()')
  expect(await revocations()).toBe(0)
  expect(await outcomesOf(db, lease.taskId)).toEqual(['cancelled'])
})

test('a checkpoint written while the lease was taken away is dropped', async () => {
  const { worker, lease } = await workerWithLease()
  const [operator, session] = [await database.client(), await database.client()]
  await operator.query('begin')
  await operator.query('select leasehold.cancel_task($1)', [lease.taskId])
  const note = [{ task_id: lease.taskId, fence: lease.fence, kind: 'checkpoint', name: 'half', value: 1 }]
  const written = session.query<{ n: number }>('select leasehold.write_notes($1, $2) as n', [
    worker,
    JSON.stringify(note),
  ])
  await untilBlocked(db, session, written)
  await operator.query('commit')
  expect((await written).rows[0]!.n).toBe(0)
  const { rowCount } = await db.query('select from leasehold.task_checkpoints')
  expect(rowCount).toBe(0)
})

test('eight claimers never hold a task at once, and its fences only grow', async () => {
  const random = seeded('eight claimers')
  await insertTasks(db, stage, 400)
  const held = new Map<string, string>()
  const lastFence = new Map<string, bigint>()
  let left = 400
  const work = async (): Promise<void> => {
    const worker = await addWorker(db, [stage], { ttl: '1 hour' })
    const session = await database.client()
    while (left > 0) {
      const leases = await claim(session, worker, stage, 1 + random.below(12))
      for (const { taskId, fence } of leases) {
        if (held.has(taskId))
          throw new Error(`task ${taskId} is held by two: ${held.get(taskId)} and ${fence}`)
        if (BigInt(fence) <= (lastFence.get(taskId) ?? 0n)) throw new Error(`fence ${fence} did not grow`)
        held.set(taskId, fence)
        lastFence.set(taskId, BigInt(fence))
      }
      for (const { taskId, fence } of leases) {
        const ending = random.chance(0.3) ? 'release' : 'done'
        // Given up before the database is told: from its commit on, somebody else may have it.
        held.delete(taskId)
        if (!(await settle(session, worker, { taskId, fence }, ending)))
          throw new Error('a valid lease was refused')
        if (ending === 'done') left -= 1
      }
    }
  }
  await Promise.all(Array.from({ length: 8 }, work))
  const { rows } = await db.query<{ done: string }>(
    "select count(*) as done from leasehold.attempts a join leasehold.tasks t on t.id = a.task_id where t.stage = $1 and a.outcome = 'done'",
    [stage],
  )
  expect(rows[0]!.done).toBe('400')
})
