/**
 * A lease is written about by its holder only, and only while it holds: zombies change nothing, the living lose nothing.
 *
 * Races are played by real sessions. Where the moment between a statement's look and its lock matters, this file's
 * database has a clock with a gate: a session that asks to be stopped waits inside clock(), after its snapshot was taken.
 * All single verbs in all states are state-verb-walk.test.ts.
 */
import type { Db } from '@leasehold/queue'
import type { Client } from 'pg'
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
  outcomesOf,
  problems,
  releaseDead,
  seeded,
  settle,
  settleDone,
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
  await db.query(`
    create or replace function leasehold.clock() returns timestamptz language plpgsql volatile parallel safe as $$
    begin
      if current_setting('test.gate', true) = 'closed' then
        perform pg_advisory_lock_shared(4711);
        perform pg_advisory_unlock_shared(4711);
      end if;
      return pg_catalog.clock_timestamp() + (select ahead from leasehold_test.clock);
    end $$`)
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

/** Starts a query that stops at its first look at the clock; `resume` lets it go on and answers with its result. */
async function stoppedAtTheClock<T>(
  start: (session: Client) => Promise<T>,
): Promise<{ resume(): Promise<T> }> {
  const [gate, session] = [await database.client(), await database.client()]
  await gate.query('select pg_advisory_lock(4711)')
  await session.query("set test.gate = 'closed'")
  const result = start(session)
  await untilBlocked(db, session, result)
  return {
    async resume() {
      await gate.query('select pg_advisory_unlock(4711)')
      return result
    },
  }
}

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

test('a worker that beats between the monitor’s look and its lock is not released', async () => {
  const worker = await addWorker(db, [stage])
  await insertTask(db, stage)
  const lease = await claimOne(db, worker, stage)
  await database.advance(31_000)
  const release = await stoppedAtTheClock(releaseDead)
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
  const sweep = await stoppedAtTheClock((session) =>
    session.query<{ ended: string[] }>(`select leasehold.expire_deadlines(p_slack => '0') as ended`),
  )
  expect(await settle(db, worker, first, 'fail', { retry_after: '0' })).toBe(true)
  const second = await claimOne(db, other, stage)
  expect((await sweep.resume()).rows[0]!.ended).toEqual([])
  expect(second.taskId).toBe(taskId)
  expect(await settle(db, other, second, 'done')).toBe(true)
  expect(await outcomesOf(db, taskId)).toEqual(['retry', 'done'])
})

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
    const worker = await addWorker(db, [stage])
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
