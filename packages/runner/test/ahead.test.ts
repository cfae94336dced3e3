/**
 * Claiming ahead: while handlers take less time than an exchange, the next tasks are fetched before there is a place for
 * them; and what had to wait for its place after all goes back before anybody misses it.
 */
import { defineStage, listAttempts } from '@leasehold/queue'
import type { Runner } from '@leasehold/runner'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { z } from 'zod'
import { aheadOfEach } from '../src/capacity.ts'
import { Turnstile } from '../src/crowding.ts'
import type { TestDatabase } from '../../../test/harness/database.ts'
import { createScene, endsOf, expectSound, insertTasks, startTestRunner } from './scene.ts'

let db: TestDatabase
beforeEach(async () => {
  db = await createScene()
})
afterEach(async () => {
  vi.restoreAllMocks()
  await expectSound(db.pool)
  await db.drop()
})

/** Quick tasks, but for those that are told to wait until they are let go. */
function mixedStage() {
  const seen = { running: 0, most: 0, held: 0, slow: 0 }
  let held: (() => number) | null = null
  const { promise: gate, resolve: letGo } = Promise.withResolvers<void>()
  const stage = defineStage({
    name: 'mixed',
    payload: z.object({ slow: z.boolean().optional() }),
    concurrency: 1,
    async run({ payload }) {
      seen.running += 1
      seen.most = Math.max(seen.most, seen.running)
      seen.held = Math.max(seen.held, held?.() ?? 0)
      if (payload.slow === true) {
        seen.slow += 1
        await gate
      }
      seen.running -= 1
    },
  })
  return { stage, seen, letGo, watch: (count: () => number) => void (held = count) }
}

/** Alone with its place, a runner holds the one that runs; ahead, more, and as many whose settlements are under way. */
function expectFetchedAhead({ held }: { held: number }): void {
  expect(held).toBeGreaterThan(1)
  expect(held).toBeLessThanOrEqual(2 * (1 + aheadOfEach))
}

const quick = (count: number): object[] => Array.from({ length: count }, () => ({}))

test('a runner with one place fetches the next task while the last is being settled, and never runs two at once', async () => {
  const { stage, seen, watch } = mixedStage()
  const runner = await startTestRunner(db, { stages: [stage] })
  watch(() => runner.counts.held)
  const ids = await insertTasks(db.pool, 'mixed', quick(300))
  const ends = await endsOf(db.pool, ids)
  expect(ends.every((end) => end.state === 'done')).toBe(true)
  expect(seen.most).toBe(1)
  expectFetchedAhead(seen)
  await runner.drain()
})

test('what was fetched ahead of a handler that turns out slow goes back, uncounted, and others do it', async () => {
  const slow = mixedStage()
  const first = await startTestRunner(db, { stages: [slow.stage], slot: 'mixed@1' })
  slow.watch(() => first.counts.held)
  const before = await insertTasks(db.pool, 'mixed', quick(200))
  const [blocking] = await insertTasks(db.pool, 'mixed', [{ slow: true }])
  const after = await insertTasks(db.pool, 'mixed', quick(50))
  await expect.poll(() => slow.seen.slow).toBe(1)
  const second = await startTestRunner(db, { stages: [mixedStage().stage], slot: 'mixed@2' })
  await endsOf(db.pool, [...before, ...after]) // while the slow one still runs
  expect(slow.seen.running).toBe(1)
  expectFetchedAhead(slow.seen)
  slow.letGo()
  await endsOf(db.pool, [blocking!])
  expect(slow.seen.most).toBe(1)
  for (const id of after) {
    const attempts = await listAttempts(db.pool, id)
    expect(attempts.filter((a) => a.outcome !== 'released').map((a) => a.attempt)).toEqual([1])
  }
  await Promise.all([first.drain(), second.drain()])
})

test('handlers that keep the processor busy are fetched a few ahead at most: others could do what waits behind them', async () => {
  const seen = { most: 0, runner: null as Runner | null }
  const stage = defineStage({
    name: 'mixed',
    payload: z.unknown(),
    concurrency: 1,
    async run() {
      seen.most = Math.max(seen.most, seen.runner!.counts.held)
      const before = process.cpuUsage() // not the clock: on a busy machine that goes on without the handler
      for (let used = 0; used < 4000;) {
        const { user, system } = process.cpuUsage(before)
        used = user + system
      }
    },
  })
  seen.runner = await startTestRunner(db, { stages: [stage] })
  await endsOf(db.pool, await insertTasks(db.pool, 'mixed', quick(100)))
  // Two of them take longer than quick handlers may together; with what ended and is being settled, that is a few.
  expect(seen.most).toBeLessThanOrEqual(16)
  await seen.runner.drain()
})

test('nothing is fetched ahead of tasks that have seen a worker end: it would be counted when they end another', async () => {
  const { stage, seen, watch } = mixedStage()
  const registering = await startTestRunner(db, { stages: [stage] })
  await registering.drain()
  const ids = await insertTasks(db.pool, 'mixed', quick(200))
  await db.pool.query('update leasehold.ready set crashes = 1')
  const runner = await startTestRunner(db, { stages: [stage] })
  watch(() => runner.counts.held)
  await endsOf(db.pool, ids)
  expect(seen.held).toBeLessThanOrEqual(2) // the one that runs, and one whose settlement is under way
  await runner.drain()
})

test('tasks fetched ahead are given back when the runner drains', async () => {
  const { stage, seen, letGo, watch } = mixedStage()
  const runner = await startTestRunner(db, { stages: [stage] })
  watch(() => runner.counts.held)
  await insertTasks(db.pool, 'mixed', [...quick(100), { slow: true }, ...quick(20)])
  await expect.poll(() => seen.slow).toBe(1)
  expectFetchedAhead(seen)
  const drained = runner.drain()
  letGo()
  await drained
  const { rows } = await db.pool.query<{ n: number }>('select count(*)::int as n from leasehold.leases')
  expect(rows[0]!.n).toBe(0)
  expect(seen.most).toBe(1)
})

test.each([
  ['an invalid payload', z.object({ bad: z.undefined().optional() }), () => Promise.resolve()],
  [
    'a handler that throws at once',
    z.object({ bad: z.boolean().optional() }),
    ({ payload }: { payload: { bad?: boolean | undefined } }): Promise<void> => {
      if (payload.bad) throw new Error('at once')
      return Promise.resolve()
    },
  ],
])(
  'no task is forgotten when %s ends an attempt before its handler has begun',
  async (_what, payload, run) => {
    const stage = defineStage({
      name: 'mixed',
      payload,
      concurrency: 1,
      retry: { attempts: 1 },
      run,
    } as never)
    const runner = await startTestRunner(db, { stages: [stage] })
    const tasks = Array.from({ length: 2000 }, (_, i) => (i % 7 === 3 ? { bad: true } : {}))
    const ends = await endsOf(db.pool, await insertTasks(db.pool, 'mixed', tasks))
    expect(ends.map((end) => end.state)).toEqual(tasks.map(({ bad }) => (bad ? 'dead' : 'done')))
    await runner.drain()
  },
)

test.each([
  ['a timeout of seconds', { timeout: '5 s' }],
  ['a stage where one crash is too many', { limits: { crashes: 1 } }],
])('%s is reason enough to fetch nothing ahead', async (_what, settings) => {
  const { stage, seen, watch } = mixedStage()
  const runner = await startTestRunner(db, { stages: [{ ...stage, ...(settings as object) }] })
  watch(() => runner.counts.held)
  await endsOf(db.pool, await insertTasks(db.pool, 'mixed', quick(300)))
  expect(seen.held).toBeLessThanOrEqual(2) // the one that runs, and one whose settlement is under way
  await runner.drain()
})

test('a stage that has nothing to do does not keep another one from being fetched ahead', async () => {
  const { stage, seen, watch } = mixedStage()
  const idle = defineStage({ name: 'idle', payload: z.unknown(), run: () => Promise.resolve() })
  const runner = await startTestRunner(db, { stages: [stage, idle], concurrency: 10 })
  watch(() => runner.counts.held)
  await endsOf(db.pool, await insertTasks(db.pool, 'mixed', quick(500)))
  expect(seen.most).toBe(1)
  expect(seen.held).toBeGreaterThan(11)
  await runner.drain()
})

test.each([
  ['in one place of ten does not keep', { concurrency: 10 }, true],
  ['in the only place of its stage keeps', { concurrency: 1 }, false],
])('a slow handler %s quick ones from being fetched ahead', async (_what, { concurrency }, isFetched) => {
  const { stage, seen, letGo, watch } = mixedStage()
  const beside = { ...stage, name: 'beside', concurrency: 10 } // the quick tasks are its own in the second case
  const runner = await startTestRunner(db, { stages: [{ ...stage, concurrency }, beside], concurrency: 20 })
  await insertTasks(db.pool, 'mixed', [{ slow: true }])
  await expect.poll(() => seen.slow).toBe(1)
  watch(() => runner.counts.held)
  const ids = await insertTasks(db.pool, isFetched ? 'mixed' : 'beside', quick(1000))
  await endsOf(db.pool, ids)
  expect(seen.most).toBeLessThanOrEqual(1 + 10)
  if (isFetched) expect(seen.held).toBeGreaterThan(1 + 2 * 10)
  else expect(seen.held).toBeLessThanOrEqual(1 + 2 * 10) // those that run, and as many whose settlements are under way
  letGo()
  await runner.drain()
})

test('runners in one process share a backlog of quick tasks', async () => {
  const counts = [0, 0, 0, 0, 0, 0]
  const runners = await Promise.all(
    counts.map((_, i) => {
      const stage = defineStage({
        name: 'mixed',
        payload: z.object({}),
        concurrency: 5,
        run: async () => void (counts[i]! += 1),
      })
      return startTestRunner(db, { stages: [stage], slot: `mixed@${i + 1}` })
    }),
  )
  await insertTasks(db.pool, 'mixed', quick(6000))
  const done = `select count(*)::int as n from leasehold.attempts where outcome = 'done'`
  await expect.poll(async () => (await db.pool.query(done)).rows[0].n, { timeout: 20_000 }).toBe(6000)
  expect(counts.reduce((sum, n) => sum + n)).toBe(6000)
  expect(Math.min(...counts)).toBeGreaterThan(0)
  await Promise.all(runners.map((runner) => runner.drain()))
})

test('large exchanges of one process wait for each other, and a drain does not wait for them', async () => {
  const enter = vi.spyOn(Turnstile.prototype, 'enter')
  const stage = defineStage({ name: 'mixed', payload: z.object({}), concurrency: 5, run: async () => {} })
  const runner = await startTestRunner(db, { stages: [stage] })
  await insertTasks(db.pool, 'mixed', quick(6000))
  await expect.poll(() => enter.mock.calls.length, { timeout: 20_000 }).toBeGreaterThan(0)
  // From now on nobody gets a pass but whoever hurries.
  let waiting = 0
  enter.mockImplementation((_, hurry) => {
    waiting += 1
    return new Promise((resolve) => void hurry.add(() => resolve(() => {})))
  })
  await expect.poll(() => waiting).toBeGreaterThan(0)
  await runner.drain()
})

test('a stage of which nothing may be fetched ahead never waits for the large exchanges of others', async () => {
  const enter = vi.spyOn(Turnstile.prototype, 'enter')
  const stage = defineStage({
    name: 'mixed',
    payload: z.object({}),
    concurrency: 5,
    timeout: '1 s',
    run: async () => {},
  })
  const runner = await startTestRunner(db, { stages: [stage] })
  await insertTasks(db.pool, 'mixed', quick(2000))
  await expect.poll(() => runner.counts.settled, { timeout: 20_000 }).toBe(2000)
  expect(enter).not.toHaveBeenCalled()
  await runner.drain()
})
