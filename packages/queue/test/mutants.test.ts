/**
 * The guards that matter, each taken out by one line: a small scenario then notices, and notices nothing while it is in.
 *
 * A scenario returns what went wrong. If a guard can be removed without one of these noticing, the suite is blind there.
 * A text that is no longer found in its function fails its test: then the guard has moved, and the mutant with it.
 */
import type { Db } from '@leasehold/queue'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { gateClock, stoppedAtTheClock } from './gate.ts'
import {
  addStage,
  addWorker,
  beat,
  claim,
  claimOne,
  insertTask,
  insertTasks,
  releaseDead,
  settle,
  settleDone,
  stateOf,
  waits,
} from './scene.ts'

let database: TestDatabase
let db: Db

beforeAll(async () => {
  database = await createTestDatabase()
  db = database.pool
  await gateClock(database)
})
afterAll(() => database.drop())

interface Lease {
  readonly taskId: string
  readonly fence: string
}

interface Mutant {
  readonly function: string
  readonly guard: string
  readonly without: string
  /** How often the guard stands in the function; all of them are taken out. Default 1. */
  readonly times?: number
  /** What went wrong, or null. */
  readonly scenario: () => Promise<string | null>
}

async function setting(settings = {}): Promise<{ stage: string; worker: string; other: string }> {
  const stage = await addStage(db, settings)
  const [worker, other] = [await addWorker(db, [stage]), await addWorker(db, [stage], { ttl: '1 day' })]
  return { stage, worker, other }
}

async function settledWithOldFence(how: typeof settleBesideAnother): Promise<string | null> {
  const { stage, worker } = await setting()
  await insertTask(db, stage)
  const old = await claimOne(db, worker, stage)
  await settle(db, worker, old, 'release')
  await claimOne(db, worker, stage)
  return (await how(worker, old, stage)) ? 'an old fence settled the task' : null
}

async function settledByAnother(how: typeof settleBulk): Promise<string | null> {
  const { stage, worker, other } = await setting()
  await insertTask(db, stage)
  const lease = await claimOne(db, worker, stage)
  return (await how(other, lease)) ? 'a worker settled what another one holds' : null
}

async function settleBulk(worker: string, lease: Lease): Promise<boolean> {
  return (await settleDone(db, worker, [lease])).length === 0
}

/** In one exchange with a lease that is good. */
async function settleBesideAnother(worker: string, lease: Lease, stage: string): Promise<boolean> {
  await insertTask(db, stage)
  const another = await claimOne(db, worker, stage)
  return (await settleDone(db, worker, [lease, another])).length === 0
}

function settleOne(worker: string, lease: Lease): Promise<boolean> {
  return settle(db, worker, lease, 'done')
}

/** A submitter that stays open while others are claimed and floors rise; does anybody get its task? */
async function lateSubmitter(patience: string): Promise<string | null> {
  const { stage, other } = await setting()
  const tick = (): Promise<unknown> => db.query('select leasehold.advance_floors($1, 1)', [patience])
  const session = await database.client()
  await session.query('begin')
  const late = await insertTask(session, stage)
  await settleDone(db, other, await insertTasks(db, stage, 20).then(() => claim(db, other, stage, 20)))
  await insertTask(db, stage)
  for (let i = 0; i < 3; i++) await tick()
  await session.query('commit')
  for (let i = 0; i < 3; i++) await tick()
  const claimed = (await claim(db, other, stage, 10)).map((lease) => lease.taskId)
  await db.query('delete from leasehold.ready where stage = $1', [stage])
  return claimed.includes(late) ? null : 'a task was left below its floor'
}

/** A limit of two is lowered to one while another transaction does something to the key's two tasks; how many are left? */
async function loweredBeside(verb: string, admittedBefore: boolean): Promise<string | null> {
  const stage = await addStage(db, { key_limit: 2 })
  await insertTask(db, stage, { concurrency_key: 'k' })
  const last = await insertTask(db, stage, { concurrency_key: 'k' })
  if (admittedBefore) await db.query('select leasehold.process_nudges($1)', [[stage]])
  const [one, two] = [await database.client(), await database.client()]
  await one.query('begin')
  await one.query(`select ${verb} from (select array[$1] as stages, $2::bigint as task) x`, [stage, last])
  const lowered = two.query('update leasehold.stages set key_limit = 1 where name = $1', [stage])
  await waits(db, two, lowered)
  await one.query('commit')
  await lowered
  const { rowCount } = await db.query('select from leasehold.ready where stage = $1', [stage])
  return rowCount === 1 ? null : `${rowCount} tasks of a key were left under a limit of 1`
}

const mutants: Record<string, Mutant> = {
  'the fence, when settling in bulk': {
    function: 'exchange',
    guard: 'then l.fence = v_one_fence when',
    without: 'then true when',
    scenario: () => settledWithOldFence(settleBulk),
  },
  'the fences, when settling in bulk what was claimed at several times': {
    function: 'exchange',
    guard: 'when (l.task_id, l.fence) in (',
    without: 'when true or (l.task_id, l.fence) in (',
    scenario: () => settledWithOldFence(settleBesideAnother),
  },
  'the fence, when settling one by one': {
    function: 'settle_endings',
    guard: 'and l.fence is not distinct from e.fence',
    without: '',
    scenario: () => settledWithOldFence(settleOne),
  },
  'the worker, when settling in bulk': {
    function: 'exchange',
    guard: 'and l.worker_id is not distinct from p_worker',
    without: '',
    scenario: () => settledByAnother(settleBulk),
  },
  'the worker, when settling one by one': {
    function: 'settle_endings',
    guard: 'and l.worker_id is not distinct from p_worker',
    without: '',
    scenario: () => settledByAnother(settleOne),
  },
  'the worker’s own expiry, when settling': {
    function: 'exchange',
    guard: 'or v_worker.expires_at <= v_now',
    without: '',
    scenario: async () => {
      const { stage, worker } = await setting()
      await insertTask(db, stage)
      const lease = await claimOne(db, worker, stage)
      await database.advance(31_000)
      return (await settleOne(worker, lease)) ? 'an expired worker settled' : null
    },
  },
  'the deadline, when settling': {
    function: 'exchange',
    guard: 'and l.deadline_at > v_now',
    without: '',
    scenario: async () => {
      const { stage, other } = await setting({ timeout: '1 minute' })
      await insertTask(db, stage)
      const lease = await claimOne(db, other, stage)
      await database.advance(61_000)
      return (await settleBulk(other, lease)) ? 'a task was done after its deadline' : null
    },
  },
  'the look after the lock, when settling': {
    function: 'exchange',
    guard: 'v_now := leasehold.clock(); -- after the lock',
    without: 'v_now := pg_catalog.statement_timestamp(); -- after the lock',
    scenario: async () => {
      const { stage, worker } = await setting()
      await insertTask(db, stage)
      const lease = await claimOne(db, worker, stage)
      const [blocker, session] = [await database.client(), await database.client()]
      await blocker.query('begin')
      await blocker.query('select from leasehold.workers where id = $1 for update', [worker])
      const settled = settle(session, worker, lease, 'done')
      await waits(db, session, settled)
      await database.advance(31_000)
      await blocker.query('commit')
      return (await settled) ? 'a worker settled whose lease ran out while it waited' : null
    },
  },
  'the second look under the lock, when releasing the dead': {
    function: 'release_dead_workers',
    guard: 'for update skip locked',
    without: '',
    scenario: async () => {
      const { stage, worker } = await setting()
      await insertTask(db, stage)
      await claimOne(db, worker, stage)
      await database.advance(31_000)
      const release = await stoppedAtTheClock(database, releaseDead)
      await beat(db, worker)
      return (await release.resume()).includes(worker) ? 'a worker that had beaten was released' : null
    },
  },
  'that an ended worker has ended, when it beats': {
    function: 'heartbeat',
    guard: 'and w.ended_at is null',
    without: '',
    scenario: async () => {
      const { worker } = await setting()
      await db.query('select leasehold.leave($1)', [worker])
      return (await beat(db, worker)) === 'live' ? 'a worker came back from the dead' : null
    },
  },
  'the lock of a key, when admitting': {
    function: 'process_nudges',
    guard: 'continue when not leasehold.lock_key(v_nudge.stage, v_nudge.concurrency_key);',
    without: '',
    scenario: async () => {
      const { stage } = await setting()
      for (let i = 0; i < 2; i++) await insertTask(db, stage, { concurrency_key: 'k' })
      const [one, two] = [await database.client(), await database.client()]
      for (const session of [one, two]) {
        await session.query('begin')
        await session.query('select leasehold.process_nudges($1, 1)', [[stage]])
      }
      await one.query('commit')
      await two.query('commit')
      const { rowCount } = await db.query('select from leasehold.ready where stage = $1', [stage])
      return rowCount === 1 ? null : `${rowCount} tasks of a key with limit 1 were admitted`
    },
  },
  'that who admits keeps the limit from changing': {
    function: 'lock_key',
    guard: `if not pg_catalog.pg_try_advisory_xact_lock_shared(pg_catalog.hashtextextended('leasehold key limit ' || p_stage, 0)) then`,
    without: 'if false then',
    scenario: () => loweredBeside('leasehold.process_nudges(stages)', false),
  },
  'that who changes a key limit waits for those who admit': {
    function: 'key_limit_changes',
    guard: `perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('leasehold key limit ' || new.name, 0));`,
    without: '',
    scenario: () => loweredBeside('leasehold.process_nudges(stages)', false),
  },
  'the look at what there is after waiting, when a key limit is lowered': {
    function: 'key_limit_changes',
    guard: 'exit when v_back = v_surplus;',
    without: 'exit;',
    scenario: () => loweredBeside('leasehold.run_now(task)', true),
  },
  'passing over what others hold, when claiming': {
    function: 'exchange',
    guard: 'order by r.position limit v_left for update skip locked',
    without: 'order by r.position limit v_left',
    times: 2,
    scenario: async () => {
      const { stage, worker, other } = await setting()
      await insertTasks(db, stage, 2)
      const [one, two] = [await database.client(), await database.client()]
      await one.query('begin')
      await claimOne(one, worker, stage)
      const second = claim(two, other, stage)
      const waited = await waits(db, two, second)
      await one.query('commit')
      return waited || (await second).length !== 1 ? 'a claim waited for another one, or got nothing' : null
    },
  },
  'that a key is freed with the end of its task': {
    function: 'after_end',
    guard: 'delete from leasehold.task_keys k where k.task_id = any (p_task_ids);',
    without: '',
    scenario: async () => {
      const { stage, worker } = await setting()
      await insertTask(db, stage, { key: 'k' })
      await settleOne(worker, await claimOne(db, worker, stage))
      const again = insertTask(db, stage, { key: 'k' })
      return again.then(
        () => null,
        () => 'the key of an ended task is still taken',
      )
    },
  },
  'that a release burns no attempt': {
    function: 'settle_endings',
    guard: `attempt - case when ending = 'retry' then 0 else 1 end`,
    without: 'attempt',
    scenario: async () => {
      const { stage, worker } = await setting()
      await insertTask(db, stage)
      await settle(db, worker, await claimOne(db, worker, stage), 'release')
      return (await claimOne(db, worker, stage)).attempt === 1 ? null : 'a release counted as an attempt'
    },
  },
  'that a crash is counted': {
    function: 'end_worker',
    guard: '+ case when v_crashed then 1 else 0 end',
    without: '+ 0',
    scenario: async () => {
      const stage = await addStage(db)
      const id = await insertTask(db, stage)
      for (let i = 0; i < 4; i++) {
        await claim(db, await addWorker(db, [stage], { slot: 'crashing' }), stage)
        await addWorker(db, [stage], { slot: 'crashing' })
      }
      return (await stateOf(db, id)) === 'dead' ? null : 'a payload that kills its worker goes on'
    },
  },
  'that a suspect goes alone': {
    function: 'exchange',
    guard: 'limit case when v_lanes[1] = 11 then 1 else v_left end',
    without: 'limit v_left',
    times: 2,
    scenario: async () => {
      const stage = await addStage(db, { max_crashes: 2 })
      await insertTasks(db, stage, 3)
      await claim(db, await addWorker(db, [stage], { slot: 'suspicious' }), stage, 3)
      const worker = await addWorker(db, [stage], { slot: 'suspicious' })
      return (await claim(db, worker, stage, 3)).length === 1 ? null : 'suspects share a worker'
    },
  },
  'that a parent stands still before its child’s nudge is dropped': {
    function: 'stands_still',
    guard: 'for key share skip locked',
    without: '',
    times: 4,
    scenario: async () => {
      const { stage, other } = await setting()
      const children = await addStage(db)
      const looker = await addWorker(db, [children], { ttl: '1 day' })
      const parent = await insertTask(db, stage)
      const lease = await claimOne(db, other, stage)
      const ending = await database.client()
      await ending.query('begin')
      await settle(ending, other, lease, 'done')
      const child = await insertTask(db, children, { depends_on: [parent] })
      await claim(db, looker, children)
      await ending.query('commit')
      const freed = (await claim(db, looker, children)).map((l) => l.taskId)
      return freed.includes(child) ? null : 'a child was stranded'
    },
  },
  'that one at a time starts tasks under a rate limit': {
    function: 'may_start',
    guard: 'for update skip locked',
    without: '',
    scenario: async () => {
      const stage = await addStage(db, { rate_tasks: 1, rate_per: '1 h' })
      const [one, two] = [await addWorker(db, [stage]), await addWorker(db, [stage])]
      await insertTasks(db, stage, 2)
      const session = await database.client()
      await session.query('begin')
      const first = await claim(session, one, stage)
      const other = await database.client()
      const racing = claim(other, two, stage)
      await waits(db, other, racing)
      await session.query('commit')
      return first.length + (await racing).length === 1 ? null : 'two sessions spent the same start'
    },
  },
  'that time in which nothing started is not saved up beyond the burst': {
    function: 'note_starts',
    guard: 'greatest(p_arrival, p_at)',
    without: 'p_arrival',
    scenario: async () => {
      const stage = await addStage(db, { rate_tasks: 4, rate_per: '1 h', rate_burst: 1 })
      await insertTasks(db, stage, 3)
      await database.advance(10 * 3_600_000)
      const worker = await addWorker(db, [stage])
      await claim(db, worker, stage)
      return (await claim(db, worker, stage)).length === 0 ? null : 'a quiet time was saved up'
    },
  },
  'that a zombie writes no notes': {
    function: 'write_notes',
    guard: 'and w.expires_at > v_now',
    without: '',
    scenario: async () => {
      const { stage, worker } = await setting()
      await insertTask(db, stage)
      const { taskId, fence } = await claimOne(db, worker, stage)
      await database.advance(31_000)
      const notes = JSON.stringify([{ task_id: taskId, fence, kind: 'log', message: 'm' }])
      const { rows } = await db.query<{ n: number }>('select leasehold.write_notes($1, $2) as n', [
        worker,
        notes,
      ])
      return rows[0]!.n === 0 ? null : 'an expired worker wrote a log'
    },
  },
  'that floors wait for open submitters': {
    function: 'advance_floors',
    guard: 'where w.xid < v_probe.below_xid and',
    without: 'where false and',
    scenario: () => lateSubmitter('1 hour'),
  },
  'that stragglers are collected': {
    function: 'advance_floors',
    guard: 'perform leasehold.collect_stragglers();',
    without: '',
    scenario: () => lateSubmitter('0'),
  },
}

/** Runs `act` while the function lacks its guard, and puts it back. */
async function whileMutated<T>(mutant: Mutant, act: () => Promise<T>): Promise<T> {
  const { rows } = await db.query<{ source: string }>(
    // Those in SQL are signatures of earlier versions, and only call the function.
    `select pg_get_functiondef(p.oid) as source from pg_proc p join pg_language l on l.oid = p.prolang
     where p.pronamespace = 'leasehold'::regnamespace and p.proname = $1 and l.lanname = 'plpgsql'`,
    [mutant.function],
  )
  expect(rows).toHaveLength(1)
  const { source } = rows[0]!
  expect(source.split(mutant.guard), `${mutant.function}: ${mutant.guard}`).toHaveLength(
    (mutant.times ?? 1) + 1,
  )
  await db.query(source.replaceAll(mutant.guard, mutant.without))
  try {
    return await act()
  } finally {
    await db.query(source)
  }
}

test.each(Object.keys(mutants))('it is noticed when this guard is gone: %s', async (name) => {
  const mutant = mutants[name]!
  expect(await mutant.scenario()).toBeNull()
  const noticed = await whileMutated(mutant, mutant.scenario)
  expect(noticed).not.toBeNull()
  expect(await mutant.scenario()).toBeNull()
})
