/**
 * A stage's rate limit: never more than tasks + burst starts in any window, whoever claims, and everything is done in the end.
 *
 * Starts are counted by leased_at, from the leases and the attempts, as the limit promises them. How a limit is set and what
 * people are told of it is rate-settings.test.ts; how a runner follows it, its own tests.
 */
import type { Db, ExchangeAnswer } from '@leasehold/queue'
import { expect, test } from 'vitest'
import {
  type Random,
  addStage,
  beat,
  claim,
  claimOne,
  insertTask,
  insertTasks,
  seeded,
  settle,
  settleDone,
} from './scene.ts'
import { database, db, exchanged, register, useWorkers } from './worker-scene.ts'

useWorkers()

interface Rate {
  readonly tasks: number
  readonly perMs: number
  readonly burst: number
}

async function limitedStage({ tasks, perMs, burst }: Rate, settings = {}): Promise<string> {
  return addStage(db, { rate_tasks: tasks, rate_per: `${perMs} ms`, rate_burst: burst, ...settings })
}

/** The most starts of a stage in any window of that length, both of its ends included. */
async function mostStarts(stage: string, perMs: number): Promise<number> {
  const { rows } = await db.query<{ most: number }>(
    `with starts as (
      select l.leased_at as at from leasehold.leases l where l.stage = $1
      union all
      select a.leased_at from leasehold.attempts a join leasehold.tasks t on t.id = a.task_id
      where t.stage = $1 and a.leased_at is not null
    ), counted as (
      select count(*) over (order by at range between current row and $2::bigint * interval '1 ms' following) as n from starts
    )
    select coalesce(max(n), 0)::integer as most from counted`,
    [stage, perMs],
  )
  return rows[0]!.most
}

function look(worker: string, stage: string, n: number, on: Db = db): Promise<ExchangeAnswer> {
  return exchanged({ workerId: worker, stages: [stage], limits: [n], promote: true }, on)
}

function oneOfEach(on: Db, workerId: string, stages: string[]): ReturnType<typeof exchanged> {
  return exchanged({ workerId, stages, limits: [1, 1] }, on)
}

async function unfinished(stage: string): Promise<number> {
  const { rows } = await db.query<{ n: number }>(
    `select count(*)::integer as n from leasehold.tasks where stage = $1 and leasehold.final_outcome(id) is null`,
    [stage],
  )
  return rows[0]!.n
}

function randomRate(random: Random): Rate {
  const tasks = 1 + random.below(40)
  return { tasks, perMs: random.pick([100, 777, 1000, 60_000]), burst: 1 + random.below(tasks) }
}

test('whoever claims how much and when: no window has more starts than tasks + burst, and every task ends', async () => {
  const random = seeded('rates')
  for (let round = 0; round < 6; round++) {
    const rate = randomRate(random)
    const stage = await limitedStage(rate, { max_attempts: 1000, backoff_min: '0', backoff_max: '0' })
    const workers = [await register([stage]), await register([stage]), await register([stage])]
    await insertTasks(db, stage, 60)
    for (let left = 60; left > 0; left = await unfinished(stage)) {
      for (let i = 0; i < 5; i++) {
        const worker = random.pick(workers)
        const leases = (await look(worker, stage, random.below(30))).claimed.map(({ taskId, fence }) => ({
          taskId,
          fence,
        }))
        const done = leases.filter(() => random.chance(0.8))
        await settleDone(db, worker, done)
        for (const lease of leases.filter((one) => !done.includes(one)))
          await settle(db, worker, lease, random.pick(['fail', 'release', 'done']))
        await database.advance(random.below(rate.perMs / random.pick([1, 5, 50])))
      }
      // Of the slowest limits all of them outlive their leases.
      for (const worker of workers) expect(await beat(db, worker)).toBe('live')
    }
    const most = await mostStarts(stage, rate.perMs)
    expect(most, JSON.stringify(rate)).toBeLessThanOrEqual(rate.tasks + rate.burst)
    expect(most, JSON.stringify(rate)).toBeGreaterThan(0)
  }
})

test('eight sessions that claim at once never start more, and leave nothing', async () => {
  const rate = { tasks: 200, perMs: 500, burst: 10 }
  const stage = await limitedStage(rate)
  await insertTasks(db, stage, 200)
  const sessions = await Promise.all(
    Array.from({ length: 8 }, async () => ({ on: await database.client(), worker: await register([stage]) })),
  )
  const left = { tasks: 200 }
  await Promise.all(
    sessions.map(async ({ on, worker }) => {
      while (left.tasks > 0) {
        const { claimed } = await look(worker, stage, 7, on)
        left.tasks -= claimed.length
        await settleDone(on, worker, claimed)
      }
    }),
  )
  expect(await unfinished(stage)).toBe(0)
  expect(await mostStarts(stage, rate.perMs)).toBeLessThanOrEqual(rate.tasks + rate.burst)
})

test('a burst may start at once, then the answer says when the next one may, and until then none starts', async ({
  onTestFinished,
}) => {
  await database.stopClock()
  onTestFinished(() => database.startClock())
  const stage = await limitedStage({ tasks: 6, perMs: 60_000, burst: 3 })
  const worker = await register([stage])
  await insertTasks(db, stage, 6)
  const first = await look(worker, stage, 10)
  expect(first.claimed).toHaveLength(3)
  expect(first.receipt.held).toEqual([stage])
  for (let next = first.receipt.due_in_ms!, started = 3; started < 6; started++) {
    expect(next).toBeGreaterThan(0)
    expect(next).toBeLessThanOrEqual(10_000)
    await database.advance(Math.max(0, next - 1000))
    expect((await look(worker, stage, 10)).claimed).toEqual([])
    await database.advance(1000)
    const { claimed, receipt } = await look(worker, stage, 10)
    expect(claimed).toHaveLength(1)
    next = receipt.due_in_ms!
  }
  // Nothing is ready any more: nobody has to look again for it.
  expect((await look(worker, stage, 10)).receipt).toEqual({ worker: 'live' })
})

test('an answer without free places, or with places left over, does not call the stage held', async () => {
  const stage = await limitedStage({ tasks: 10, perMs: 60_000, burst: 5 })
  const worker = await register([stage])
  await insertTasks(db, stage, 3)
  expect((await look(worker, stage, 0)).receipt).toEqual({ worker: 'live' })
  const { claimed, receipt } = await look(worker, stage, 10)
  expect(claimed).toHaveLength(3)
  expect(receipt).toEqual({ worker: 'live' })
})

test('a look that may start nothing, or finds nothing to start, writes nothing', async () => {
  const stage = await limitedStage({ tasks: 1, perMs: 60_000, burst: 1 })
  const worker = await register([stage])
  const writes = async (): Promise<boolean> => {
    const session = await database.client()
    await session.query('begin')
    expect((await look(worker, stage, 5, session)).claimed).toEqual([])
    const { rows } = await session.query<{ xid: string | null }>(
      'select pg_current_xact_id_if_assigned() as xid',
    )
    await session.query('commit')
    return rows[0]!.xid !== null
  }
  expect(await writes()).toBe(false) // idle
  await insertTasks(db, stage, 2)
  expect((await look(worker, stage, 5)).claimed).toHaveLength(1)
  expect(await writes()).toBe(false) // held
})

test('a worker of one run is held to the limit, and not called for the tasks of other runs', async () => {
  const stage = await limitedStage({ tasks: 1, perMs: 60_000, burst: 1 })
  const worker = await register([stage])
  await insertTask(db, stage, { run_id: 'theirs' })
  const mine = await insertTask(db, stage, { run_id: 'mine' })
  await insertTask(db, stage, { run_id: 'theirs' })
  const ofMine = (): ReturnType<typeof exchanged> =>
    exchanged({ workerId: worker, stages: [stage], limits: [5], runId: 'mine' })
  const first = await ofMine()
  expect(first.claimed.map(({ taskId }) => taskId)).toEqual([mine])
  expect(first.receipt).toEqual({ worker: 'live' })
  await insertTask(db, stage, { run_id: 'mine' })
  expect(await ofMine()).toMatchObject({ receipt: { worker: 'live' }, claimed: [] })
})

test('retries are starts, and so is what is given back unstarted', async () => {
  const stage = await limitedStage(
    { tasks: 2, perMs: 60_000, burst: 2 },
    { backoff_min: '0', backoff_max: '0' },
  )
  const worker = await register([stage])
  await insertTask(db, stage)
  await settle(db, worker, await claimOne(db, worker, stage), 'fail')
  await settle(db, worker, await claimOne(db, worker, stage), 'release')
  expect(await claim(db, worker, stage)).toEqual([])
  await database.advance(30_000)
  expect(await claimOne(db, worker, stage)).toMatchObject({ attempt: 2 })
})

test('neither run_now nor a suspect gets past the limit', async () => {
  const stage = await limitedStage({ tasks: 1, perMs: 60_000, burst: 1 }, { max_crashes: 2 })
  const worker = await register([stage])
  const [, suspect, hurried] = await insertTasks(db, stage, 3)
  await claimOne(db, worker, stage)
  await db.query('select leasehold.run_now($1)', [hurried])
  await db.query(`update leasehold.ready set lane = 11, crashes = 1 where task_id = $1`, [suspect])
  expect(await claim(db, worker, stage, 10)).toEqual([])
  await database.advance(60_000)
  expect(await claim(db, worker, stage, 10)).toMatchObject([{ taskId: suspect }])
  expect(await claim(db, worker, stage, 10)).toEqual([])
  await database.advance(60_000)
  expect(await claim(db, worker, stage, 10)).toMatchObject([{ taskId: hurried }])
})

test('two that name two limited stages in opposite orders pass one another by', async () => {
  const rate = { tasks: 5, perMs: 1000, burst: 5 }
  const [a, b] = [await limitedStage(rate), await limitedStage(rate)]
  const worker = { one: await register([a, b]), two: await register([a, b]) }
  await insertTasks(db, a, 20)
  await insertTasks(db, b, 20)
  const one = await database.client()
  const two = await database.client()
  await one.query('begin')
  await two.query('begin')
  expect(await claim(one, worker.one, a)).toHaveLength(1)
  expect(await claim(two, worker.two, b)).toHaveLength(1)
  // Each holds what the other one asks for next: neither may wait.
  const answers = [await oneOfEach(one, worker.one, [b, a]), await oneOfEach(two, worker.two, [a, b])]
  expect(answers.map(({ claimed }) => claimed.map((task) => task.stage))).toEqual([[a], [b]])
  expect(answers.map(({ receipt }) => receipt.held)).toEqual([[b], [a]])
  await one.query('commit')
  await two.query('commit')
  for (const stage of [a, b]) expect(await mostStarts(stage, 1000)).toBeLessThanOrEqual(10)
})

test('a claim that is rolled back has spent nothing', async () => {
  const stage = await limitedStage({ tasks: 1, perMs: 60_000, burst: 1 })
  const worker = await register([stage])
  await insertTasks(db, stage, 1)
  const session = await database.client()
  await session.query('begin')
  expect(await claim(session, worker, stage)).toHaveLength(1)
  await session.query('rollback')
  expect(await claim(db, worker, stage)).toHaveLength(1)
})

test('a stage goes on after one step when the clock is set back, and when a slow limit becomes a fast one', async () => {
  const stage = await limitedStage({ tasks: 24, perMs: 86_400_000, burst: 1 })
  const worker = await register([stage])
  await insertTasks(db, stage, 4)
  await database.advance(10 * 86_400_000)
  await db.query('update leasehold.workers set expires_at = leasehold.clock() where id = $1', [worker])
  const later = await register([stage], 86_400_000)
  expect(await claim(db, later, stage)).toHaveLength(1)
  await database.advance(-9 * 86_400_000)
  expect(await claim(db, later, stage)).toEqual([])
  await database.advance(3_600_000)
  expect(await claim(db, later, stage)).toHaveLength(1)
  expect(await claim(db, later, stage)).toEqual([])
  await db.query(
    `select leasehold.register_stage($1, p_rate_tasks => 10, p_rate_per => '1 s', p_rate_burst => 1)`,
    [stage],
  )
  expect(await claim(db, later, stage)).toEqual([])
  await database.advance(100)
  expect(await claim(db, later, stage)).toHaveLength(1)
  await database.advance(-86_400_000 - 3_600_100)
})

test('under an old snapshot a claim reads the limit as fast after 1,000 starts as before', async () => {
  const stage = await limitedStage({ tasks: 1_000_000, perMs: 1000, burst: 1_000_000 })
  const worker = await register([stage])
  await insertTasks(db, stage, 1100)
  const reader = await database.client()
  await reader.query('begin isolation level repeatable read')
  await reader.query('select 1 from leasehold.stage_rates')
  const session = await database.client()
  const entries = async (): Promise<number> => {
    const { rows } = await session.query<{ n: string }>(
      `select pg_stat_get_xact_tuples_returned('leasehold.rate_by_newest_arrival'::regclass) as n`,
    )
    return Number(rows[0]!.n)
  }
  const walked = async (): Promise<number> => {
    await session.query('begin')
    const earlier = await entries()
    expect(await claim(session, worker, stage)).toHaveLength(1)
    const n = (await entries()) - earlier
    await session.query('commit')
    return n
  }
  const before = await walked()
  await session.query(`do $$ begin
    for i in 1 .. 1000 loop
      perform leasehold.claim('${worker}', '${stage}');
      commit;
    end loop;
  end $$`)
  expect(await walked()).toBeLessThanOrEqual(before + 5)
  await reader.query('rollback')
})
