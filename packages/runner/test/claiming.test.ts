/**
 * What a runner takes and when: within its places, of its stages, of its run, when its time has come, as soon as it is told.
 */
import { defineStage, pauseStage, registerStage, resumeStage, submit, submitMany } from '@leasehold/queue'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { z } from 'zod'
import type { TestDatabase } from '../../../test/harness/database.ts'
import { createScene, endOf, endsOf, eventually, expectSound, insertTasks, startTestRunner } from './scene.ts'

let db: TestDatabase
beforeEach(async () => {
  db = await createScene()
})
afterEach(async () => {
  await expectSound(db.pool)
  await db.drop()
})

const payload = z.object({})

/** A stage whose handlers wait until they are let go, and that counts how many do. */
function gatedStage(name: string, concurrency?: number) {
  const gates: (() => void)[] = []
  const state = { running: 0, most: 0, entered: 0 }
  const stage = defineStage({
    name,
    payload,
    ...(concurrency === undefined ? {} : { concurrency }),
    async run() {
      state.entered += 1
      state.running += 1
      state.most = Math.max(state.most, state.running)
      await new Promise<void>((go) => gates.push(go))
      state.running -= 1
    },
  })
  const letGo = (count = Infinity): void => {
    for (const go of gates.splice(0, count)) go()
  }
  return { stage, state, letGo }
}

const nothing: object[] = Array.from({ length: 30 }, () => ({}))

test('never more tasks run than the concurrency allows, and never fewer while there is work', async () => {
  const { stage, state, letGo } = gatedStage('gated', 3)
  const runner = await startTestRunner(db, { stages: [stage] })
  const ids = await insertTasks(db.pool, 'gated', nothing)
  for (let done = 0; done < 30; done += 3) {
    await expect.poll(() => state.running, { timeout: 45_000 }).toBe(3)
    expect(runner.counts.held).toBeLessThanOrEqual(6) // three that run, three that wait for their settlement
    letGo()
  }
  await endsOf(db.pool, ids)
  expect(state.most).toBe(3)
  await runner.drain()
})

test('several stages share one runner, each within its own limit and all within the common one', async () => {
  const a = gatedStage('a', 4)
  const b = gatedStage('b', 4)
  const c = gatedStage('c') // says nothing: one
  const runner = await startTestRunner(db, { stages: [a.stage, b.stage, c.stage] })
  for (const name of ['a', 'b', 'c']) await insertTasks(db.pool, name, nothing.slice(0, 10))
  await expect.poll(() => [a.state.running, b.state.running, c.state.running]).toEqual([4, 4, 1])
  const until = Promise.all(
    [a, b, c].map(({ state }) => expect.poll(() => state.entered, { timeout: 45_000 }).toBe(10)),
  )
  const pump = setInterval(() => [a, b, c].forEach(({ letGo }) => letGo()), 5)
  await until
  await expect.poll(() => runner.counts.settled, { timeout: 45_000 }).toBe(30)
  clearInterval(pump)
  expect([a.state.most, b.state.most, c.state.most]).toEqual([4, 4, 1])
  await runner.drain()
})

test('with fewer places than stages every stage has its turn, however much the others have to do', async () => {
  const stages = ['a', 'b', 'c', 'd'].map((name) => gatedStage(name, 5))
  const [busy, , , rare] = stages.map(({ state }) => state)
  let before: number | null = null // of the busy stage, when the rare one had its turn
  const runner = await startTestRunner(db, { stages: stages.map(({ stage }) => stage), concurrency: 2 })
  await insertTasks(db.pool, 'a', nothing)
  const ids = await insertTasks(db.pool, 'd', [{}])
  const pump = setInterval(() => {
    if (rare!.entered > 0) before ??= busy!.entered
    stages.forEach(({ letGo }) => letGo())
  }, 5)
  await endsOf(db.pool, ids)
  expect(before).toBeLessThan(30) // it was not waited for
  await expect.poll(() => runner.counts.settled, { timeout: 45_000 }).toBe(31)
  clearInterval(pump)
  await runner.drain()
})

test('a runner for one run takes the tasks of that run only', async () => {
  const stage = defineStage({ name: 'plain', payload, concurrency: 5, async run() {} })
  await db.pool.query("select leasehold.register_stage('plain')")
  const mine = await submitMany(db.pool, stage, nothing.slice(0, 3).map(() => ({ payload: {}, runId: 'mine' }))) // prettier-ignore
  const others = await submitMany(db.pool, stage, nothing.slice(0, 3).map(() => ({ payload: {}, runId: 'other' }))) // prettier-ignore
  const none = await insertTasks(db.pool, 'plain', [{}])
  const runner = await startTestRunner(db, { stages: [stage], runFilterId: 'mine' })
  await endsOf(db.pool, mine)
  // What waits for others is told that nobody is there for it.
  const { rows: health } = await db.pool.query(
    "select status, live_workers::int from leasehold.stage_health where stage = 'plain'",
  )
  expect(health).toEqual([{ status: 'no worker', live_workers: 0 }])
  const later = await submit(db.pool, stage, {}, { runId: 'mine' })
  await endOf(db.pool, later)
  await runner.drain()
  const { rows } = await db.pool.query('select task_id::text from leasehold.ready order by task_id')
  expect(rows.map((row) => row['task_id'])).toEqual([...others, ...none])
})

test('a timeout that was taken out of a program is not the database’s any more', async () => {
  await db.pool.query("select leasehold.register_stage('plain', p_timeout => '5 minutes')")
  const stage = defineStage({ name: 'plain', payload, async run() {} })
  const runner = await startTestRunner(db, { stages: [stage] })
  const { rows } = await db.pool.query("select timeout::text from leasehold.stages where name = 'plain'")
  expect(rows).toEqual([{ timeout: '00:30:00' }])
  await runner.drain()
})

test('a paused stage is not claimed, and goes on when it is resumed', async () => {
  const stage = defineStage({ name: 'plain', payload, concurrency: 5, async run() {} })
  const witness = defineStage({ name: 'witness', payload, concurrency: 5, async run() {} })
  const runner = await startTestRunner(db, { stages: [stage, witness] })
  await pauseStage(db.pool, 'plain')
  const [paused] = await insertTasks(db.pool, 'plain', [{}])
  await endsOf(db.pool, await insertTasks(db.pool, 'witness', [{}, {}, {}])) // looks were taken since
  const { rows } = await db.pool.query('select task_id::text from leasehold.ready')
  expect(rows).toEqual([{ task_id: paused }])
  await resumeStage(db.pool, 'plain')
  expect((await endOf(db.pool, paused!)).state).toBe('done')
  await runner.drain()
})

test('a task for later starts when its time has come and not before', async () => {
  const startedAt = Promise.withResolvers<Date>()
  const stage = defineStage({
    name: 'later',
    payload,
    async run(ctx) {
      const { rows } = await ctx.db.query<{ at: Date }>('select leasehold.clock() as at')
      startedAt.resolve(rows[0]!.at)
    },
  })
  const runner = await startTestRunner(db, { stages: [stage] })
  const { rows } = await db.pool.query<{ run_at: Date }>(
    "insert into leasehold.tasks (stage, run_at) values ('later', leasehold.clock() + interval '700 milliseconds') returning run_at",
  )
  expect((await startedAt.promise).getTime()).toBeGreaterThanOrEqual(rows[0]!.run_at.getTime())
  await expect.poll(() => runner.counts.settled).toBe(1)
  await runner.drain()
})

test('an idle runner is woken by a submission although its next look is a minute away', async () => {
  const stage = defineStage({ name: 'plain', payload, async run() {} })
  const runner = await startTestRunner(db, { stages: [stage], maxPollMs: 60_000, wedgeLimitMs: 600_000 })
  await sleeping('plain')
  expect((await endOf(db.pool, (await insertTasks(db.pool, 'plain', [{}]))[0]!)).state).toBe('done')
  await runner.drain()
})

/** Resolves when the runner rests and has asked to be notified about the stage. */
async function sleeping(stage: string): Promise<void> {
  await eventually(async () => {
    const { rows } = await db.pool.query<{ asleep: boolean }>(
      `select exists (select from leasehold.sleepers where stage = $1 and wake_until > leasehold.clock())
         and not exists (select from pg_stat_activity where application_name like 'leasehold exchange%'
           and datname = current_database() and (state <> 'idle' or state_change > clock_timestamp() - interval '300 milliseconds')) as asleep`,
      [stage],
    )
    return rows[0]!.asleep
  })
}

test('a listener whose backend is terminated listens again and hears the next submission', async () => {
  const stage = defineStage({ name: 'plain', payload, async run() {} })
  const runner = await startTestRunner(db, { stages: [stage], maxPollMs: 60_000, wedgeLimitMs: 600_000 })
  await sleeping('plain')
  const listeners = `select pid from pg_stat_activity where datname = current_database() and application_name like 'leasehold listen%'`
  const { rows } = await db.pool.query<{ pid: number }>(listeners)
  await db.pool.query('select pg_terminate_backend($1)', [rows[0]!.pid])
  await eventually(async () => {
    const found = await db.pool.query<{ pid: number }>(`${listeners} and state = 'idle'`)
    return found.rows.length === 1 && found.rows[0]!.pid !== rows[0]!.pid
  })
  await sleeping('plain')
  expect((await endOf(db.pool, (await insertTasks(db.pool, 'plain', [{}]))[0]!)).state).toBe('done')
  await runner.drain()
})

test('polling alone is enough: without a listener everything is found', async () => {
  const stage = defineStage({ name: 'plain', payload, concurrency: 2, async run() {} })
  const runner = await startTestRunner(db, { stages: [stage], listen: false, maxPollMs: 200 })
  for (let i = 0; i < 5; i++) await endsOf(db.pool, await insertTasks(db.pool, 'plain', [{}, {}, {}]))
  const { rows } = await db.pool.query(
    "select from pg_stat_activity where datname = current_database() and application_name like 'leasehold listen%'",
  )
  expect(rows).toEqual([])
  await runner.drain()
})

test('two runners that drain 3,000 tasks side by side work each of them once', async () => {
  const worked = new Map<string, number>()
  const stage = defineStage({
    name: 'counted',
    payload,
    concurrency: 100,
    async run(ctx) {
      worked.set(ctx.task.id, (worked.get(ctx.task.id) ?? 0) + 1)
    },
  })
  await db.pool.query("select leasehold.register_stage('counted')")
  const ids = await submitMany(
    db.pool,
    stage,
    Array.from({ length: 3000 }, () => ({ payload: {} })),
  )
  const runners = [
    await startTestRunner(db, { stages: [stage], slot: 'counted@1' }),
    await startTestRunner(db, { stages: [stage], slot: 'counted@2' }),
  ]
  await eventually(async () => worked.size === 3000)
  await expect.poll(() => runners.reduce((sum, runner) => sum + runner.counts.settled, 0)).toBe(3000)
  expect([...worked.values()].filter((times) => times !== 1)).toEqual([])
  expect(new Set(ids)).toEqual(new Set(worked.keys()))
  for (const runner of runners) await runner.drain()
  expect(runners.map((runner) => runner.counts.refused)).toEqual([0, 0])
})

test('10,000 tasks in flight cost one row update per beat', async () => {
  const { stage, state, letGo } = gatedStage('many', 10_000)
  await db.pool.query(`
    create table public.worker_updates (beat_at timestamptz not null);
    create function public.note_update() returns trigger language plpgsql security definer as
      $$ begin insert into public.worker_updates values (new.beat_at); return null; end $$;
    create trigger note_update after update on leasehold.workers for each row execute function public.note_update();
    select leasehold.register_stage('many');
    insert into leasehold.tasks (stage) select 'many' from generate_series(1, 10000);`)
  const runner = await startTestRunner(db, { stages: [stage] })
  await expect.poll(() => state.running, { timeout: 45_000 }).toBe(10_000)
  await db.pool.query('truncate public.worker_updates')
  const written = await eventually(async () => {
    const found = await db.pool.query<{ updates: number; beats: number; ms: number }>(
      `select count(*)::integer as updates, count(distinct beat_at)::integer as beats,
        extract(epoch from max(beat_at) - min(beat_at))::float8 * 1000 as ms from public.worker_updates`,
    )
    return found.rows[0]!.beats >= 5 && found.rows[0]!
  })
  expect(written.updates).toBe(written.beats)
  // A beat that was late may be followed early by the next one; many more beats than intervals would be one for each task.
  expect(written.updates).toBeLessThanOrEqual(written.ms / 150 + 2)
  const { rows } = await db.pool.query(
    'select running, oldest_fence <= (select min(fence) from leasehold.leases) as covers from leasehold.workers',
  )
  expect(rows).toEqual([{ running: 10_000, covers: true }])
  letGo()
  await expect.poll(() => runner.counts.settled, { timeout: 45_000 }).toBe(10_000)
  await runner.drain()
})

test('one answer brings no more than some megabytes of payloads, however many places are free', async () => {
  const stage = defineStage({ name: 'large', payload: z.unknown(), concurrency: 400, async run() {} })
  await registerStage(db.pool, stage)
  await db.pool.query(
    `insert into leasehold.tasks (stage, payload)
     select 'large', jsonb_build_object('pad', repeat('x', 400000)) from generate_series(1, 150)`,
  )
  const runner = await startTestRunner(db, { stages: [stage] })
  await expect.poll(() => runner.counts.settled).toBe(150)
  const { rows } = await db.pool.query<{ n: number }>(
    'select count(*)::int as n from leasehold.attempts group by fence order by fence',
  )
  const [first, ...later] = rows.map((row) => row.n)
  expect(first).toBeLessThanOrEqual(64) // nothing is known of them yet
  expect(Math.max(...later)).toBeLessThanOrEqual(40) // 16 million characters
  await runner.drain()
})
