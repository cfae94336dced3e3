/**
 * A rate limit is set, changed and taken away by whoever registers the stage last; bad ones are refused by name; and people
 * are told what it holds back, without a false alarm.
 */
import {
  type RateLimit,
  type StageSettings,
  ValueRefusedError,
  defineStage,
  explainTask,
  leave,
  listStages,
  registerStage,
  wholeRate,
} from '@leasehold/queue'
import { beforeEach, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { addStage, claim, claimOne, insertTask, insertTasks, settle } from './scene.ts'
import { database, db, register, stage, useWorkers } from './worker-scene.ts'

useWorkers()

async function rateOf(name: string): Promise<unknown> {
  return (await listStages(db, { stage: name }))[0]!.rate
}

const sixty = { tasks: 60, perMs: 60_000, burst: 5 }

function settings(rate?: RateLimit | null): StageSettings {
  return { name: stage, ...(rate !== undefined && { limits: { rate } }) }
}

function set(tasks: number): Promise<unknown> {
  const call = `select leasehold.register_stage($1, p_rate_tasks => $2, p_rate_per => case when $2 > 0 then interval '1 h' end)`
  return db.query(call, [stage, tasks])
}

describe('registering', () => {
  test('sets a limit, changes it, keeps it where nothing is said, and takes it away', async () => {
    await registerStage(db, settings({ tasks: 60, per: '1 min', burst: 5 }))
    expect(await rateOf(stage)).toEqual(sixty)
    await registerStage(db, settings())
    expect(await rateOf(stage)).toEqual(sixty)
    await registerStage(db, settings({ tasks: 7, per: '1 s' }))
    expect(await rateOf(stage)).toEqual({ tasks: 7, perMs: 1000, burst: 7 })
    await registerStage(db, settings(null))
    expect(await rateOf(stage)).toBeNull()
    const { rows } = await db.query('select next_start_at from leasehold.stage_health where stage = $1', [
      stage,
    ])
    expect(rows).toEqual([{ next_start_at: null }])
  })

  test('as programs do that know nothing of limits leaves a limit as it is, by position and by name', async () => {
    await db.query(
      `select leasehold.register_stage($1, p_rate_tasks => 60, p_rate_per => '1 min', p_rate_burst => 5)`,
      [stage],
    )
    await db.query(
      `select leasehold.register_stage($1, 7, 4, interval '1 minute', interval '1 s', interval '1 min', 2, 3, 0)`,
      [stage],
    )
    await db.query(
      `select leasehold.register_stage($1, p_priority => $2, p_max_attempts => $3,
        p_timeout => $4::bigint * interval '1 millisecond', p_backoff_min => $5::bigint * interval '1 millisecond',
        p_backoff_max => $6::bigint * interval '1 millisecond', p_max_crashes => $7, p_key_limit => $8, p_expected_workers => $9)`,
      [stage, null, 5, null, null, null, null, null, null],
    )
    const [now] = await listStages(db, { stage })
    expect(now).toMatchObject({ priority: 7, maxAttempts: 5, timeoutMs: 60_000, keyLimit: 3, rate: sixty })
  })

  test('gives a limit that was taken away and set again no second burst', async () => {
    const worker = await register([stage])
    await insertTasks(db, stage, 5)
    await set(1)
    await claimOne(db, worker, stage)
    await set(0)
    await set(1)
    expect(await claim(db, worker, stage)).toEqual([])
    await set(0)
    expect(await claim(db, worker, stage, 9)).toHaveLength(4)
  })

  test.each([
    [60, '1 min'],
    [1, '1 min'],
    [90, '1 min'],
    [10, '1 s'],
    [5, '200 ms'],
    [1_000_000, '1 d'],
    [7, '3 s'],
  ] as const)('%i per %s has the same burst by default in SQL and in the library', async (tasks, per) => {
    const whole = wholeRate({ tasks, per })
    await db.query(
      `select leasehold.register_stage($1, p_rate_tasks => $2, p_rate_per => $3::bigint * interval '1 ms')`,
      [stage, tasks, whole.perMs],
    )
    expect(await rateOf(stage)).toEqual(whole)
  })
})

const unusable: [string, number | null, string | null, number | null, string][] = [
  ['no task', -1, '1 s', null, 'stage_rate_tasks_is_1_to_1000000'],
  ['more than a million tasks', 1_000_001, '1 s', null, 'stage_rate_tasks_is_1_to_1000000'],
  ['no time', 1, '0', null, 'stage_rate_per_is_1_ms_to_1_day'],
  ['a time that goes back', 1, '-1 s', null, 'stage_rate_per_is_1_ms_to_1_day'],
  ['more than a day', 1, '1 day 00:00:00.001', null, 'stage_rate_per_is_1_ms_to_1_day'],
  ['a month', 1, '1 month', 1, 'stage_rate_per_is_1_ms_to_1_day'],
  ['no burst', 5, '1 s', 0, 'stage_rate_burst_is_1_to_rate_tasks'],
  ['a burst above tasks', 5, '1 s', 6, 'stage_rate_burst_is_1_to_rate_tasks'],
  ['tasks without a time', 5, null, null, '22023'],
  ['a time without tasks', null, '1 s', null, '22023'],
  ['a burst without tasks', null, null, 1, '22023'],
  ['no limit, and yet a time', 0, '1 s', null, '22023'],
]

test.each(unusable)('%s is refused by SQL and changes nothing', async (_what, tasks, per, burst, reason) => {
  await registerStage(db, { name: stage, limits: { rate: { tasks: 60, per: '1 min', burst: 5 } } })
  const error = await db
    .query(`select leasehold.register_stage($1, p_priority => 9, p_rate_tasks => $2, p_rate_per => $3, p_rate_burst => $4)`, [
      stage,
      tasks,
      per,
      burst,
    ])
    .then(() => null, (failure: unknown) => failure as { code: string; constraint?: string }) // prettier-ignore
  expect(error?.constraint ?? error?.code).toBe(reason)
  expect((await listStages(db, { stage }))[0]).toMatchObject({ priority: 5, rate: sixty })
})

test.each([
  [{ tasks: 0, per: '1 s' }, 'limits.rate.tasks must be a whole number from 1 to 1000000, not 0'],
  [{ tasks: 1.5, per: '1 s' }, 'limits.rate.tasks'],
  [{ tasks: 1, per: '2 d' }, 'limits.rate.per must be between 1 ms and 1 d, not 2 d'],
  [{ tasks: 1, per: 0 }, 'limits.rate.per'],
  [{ tasks: 5, per: '1 s', burst: 6 }, 'limits.rate.burst must be a whole number from 1 to tasks (5), not 6'],
  [{ tasks: 5, per: '1 s', burst: 0 }, 'limits.rate.burst'],
  [{ tasks: 5, per: 'soon' }, "'soon' is no duration"],
] as [RateLimit, string][])('%o is refused where the stage is defined', (rate, reason) => {
  const define = (): unknown =>
    defineStage({ name: 'mail', payload: z.unknown(), limits: { rate }, async run() {} })
  expect(define).toThrow(ValueRefusedError)
  expect(define).toThrow(reason)
})

async function limited(): Promise<{ name: string; worker: string }> {
  const name = await addStage(db, { rate_tasks: 6, rate_per: '1 minute', rate_burst: 2 })
  return { name, worker: await register([name]) }
}

async function incidents(name: string): Promise<string[]> {
  const { rows } = await db.query<{ kind: string }>(
    `select kind from leasehold.work_conditions() where subject = $1
     union all
     select kind from leasehold.fleet_conditions('1 minute', '2 minutes', '5 minutes') where subject = $1`,
    [name],
  )
  return rows.map((row) => row.kind)
}

describe('what people are told', () => {
  // Told in seconds: a slow moment must not be among them.
  beforeEach(async () => {
    await database.stopClock()
    return () => database.startClock()
  })

  test('is why a task does not run, when the limit is what holds it', async () => {
    const { name, worker } = await limited()
    const ids = await insertTasks(db, name, 5)
    expect(await explainTask(db, ids[1]!)).toMatchObject({ reasonCode: 'others_ahead' })
    expect(await explainTask(db, ids[2]!)).toMatchObject({ reasonCode: 'rate_limited' }) // two may start now, not three
    expect(await claim(db, worker, name, 5)).toHaveLength(2)
    const why = await explainTask(db, ids[4]!)
    expect(why).toMatchObject({
      state: 'ready',
      reasonCode: 'rate_limited',
      details: { ahead: 2, tasks: 6, burst: 2 },
    })
    expect(why.reason).toMatch(
      /^Its stage's rate limit: 6 starts per 00:01:00 \(burst 2\); next start at 2.*; 2 ready task\(s\) in front\.$/,
    )
    await db.query('select leasehold.pause_stage($1)', [name])
    expect(await explainTask(db, ids[4]!)).toMatchObject({ reasonCode: 'stage_paused' })
    await db.query('select leasehold.resume_stage($1)', [name])
    await leave(db, worker, 'test')
    expect(await explainTask(db, ids[4]!)).toMatchObject({ reasonCode: 'no_live_worker' })
  })

  test('is the state of the stage: held by its limit, and until when', async () => {
    const { name, worker } = await limited()
    await insertTasks(db, name, 3)
    expect((await listStages(db, { stage: name }))[0]).toMatchObject({
      status: 'waiting for workers',
      nextStartAt: null,
    })
    for (const lease of await claim(db, worker, name, 5)) await settle(db, worker, lease, 'done')
    const [held] = await listStages(db, { stage: name })
    const { rows } = await db.query<{ now: Date }>('select leasehold.clock() as now')
    const inMs = held!.nextStartAt!.getTime() - rows[0]!.now.getTime()
    expect(held).toMatchObject({ status: 'rate limited', rate: { tasks: 6, perMs: 60_000, burst: 2 } })
    expect(inMs).toBeGreaterThan(0)
    expect(inMs).toBeLessThanOrEqual(10_000)
    await database.advance(10_000)
    expect((await listStages(db, { stage: name }))[0]).toMatchObject({
      status: 'waiting for workers',
      nextStartAt: null,
    })
  })

  test('is seen by observers, and followed by workers, with no more rights than theirs', async () => {
    const { name, worker } = await limited()
    await insertTasks(db, name, 3)
    const session = await database.client()
    await session.query('set role leasehold_worker')
    expect(await claim(session, worker, name, 5)).toHaveLength(2)
    await session.query(`select leasehold.register_stage($1, p_rate_tasks => 7, p_rate_per => '1 minute')`, [
      name,
    ])
    await session.query('set role leasehold_observer')
    const { rows } = await session.query(
      'select rate_tasks, next_start_at is not null as held from leasehold.stage_health where stage = $1',
      [name],
    )
    expect(rows).toEqual([{ rate_tasks: 7, held: true }])
    const refused = { code: '42501' }
    await expect(session.query('select * from leasehold.stage_rates')).rejects.toMatchObject(refused)
    await expect(session.query('select leasehold.may_start($1, 1)', [name])).rejects.toMatchObject(refused)
  })

  test('is no incident while its workers start what the limit lets them, and is one when they do not', async () => {
    const name = await addStage(db, { rate_tasks: 1, rate_per: '10 minutes' })
    const worker = await register([name], 86_400_000)
    await db.query(`select leasehold.set_backlog_limit($1, '5 minutes')`, [name])
    await insertTasks(db, name, 5)
    for (let i = 0; i < 3; i++) {
      await settle(db, worker, await claimOne(db, worker, name), 'done')
      await database.advance(599_000)
      expect(await incidents(name)).toEqual([])
      await database.advance(1_000)
    }
    await database.advance(11_000) // a start was allowed, and nobody made it
    expect(await incidents(name)).toEqual(['backlog_old'])
    await settle(db, worker, await claimOne(db, worker, name), 'done')
    expect(await incidents(name)).toEqual([])
    await leave(db, worker, 'test')
    await database.advance(300_000)
    expect(await incidents(name)).toEqual(expect.arrayContaining(['backlog_old', 'stage_without_worker']))
    await db.query('select leasehold.cancel_task(task_id) from leasehold.ready where stage = $1', [name])
  })

  test('is no excuse for too few places: a backlog behind workers that are all busy is an incident', async () => {
    const name = await addStage(db, { rate_tasks: 60, rate_per: '1 minute', rate_burst: 1 })
    const worker = await register([name], 86_400_000)
    await db.query(`select leasehold.set_backlog_limit($1, '15 seconds')`, [name])
    await insertTasks(db, name, 5)
    const busy = await claimOne(db, worker, name)
    await database.advance(16_000) // within ten seconds of a start the limit allows
    expect(await incidents(name)).toEqual(['backlog_old'])
    await settle(db, worker, busy, 'done')
    await leave(db, worker, 'test')
    await db.query('select leasehold.cancel_task(task_id) from leasehold.ready where stage = $1', [name])
  })

  test('is not told by a notification: nobody is woken for a stage that its limit holds', async () => {
    const { name, worker } = await limited()
    const sleepers = async (): Promise<number> =>
      (await db.query('select from leasehold.sleepers where stage = $1', [name])).rowCount!
    const wait = `select x.extra::jsonb as receipt from leasehold.exchange(
      $1, null, null, null, null, null, array[$2], array[9], null, true, 60000) x where x.task_id is null`
    await db.query(wait, [worker, name])
    expect(await sleepers()).toBe(1)
    await insertTasks(db, name, 3)
    await db.query(wait, [worker, name])
    expect(await sleepers()).toBe(0)
    await insertTask(db, name)
    await database.advance(30_000)
    await db.query(wait, [worker, name])
    expect(await sleepers()).toBe(1)
  })
})
