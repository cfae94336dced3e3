/**
 * A runner follows its stages' rate limits: it starts what they let it and nothing ahead of it, looks again when the next
 * one may start, and its other stages go on meanwhile.
 *
 * Only the upper bound is held against time, and by the database's clock; how soon a task starts is not.
 */
import { defineStage, listStages, registerStage } from '@leasehold/queue'
import type { Runner } from '@leasehold/runner'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { z } from 'zod'
import type { TestDatabase } from '../../../test/harness/database.ts'
import { createScene, endsOf, eventually, expectSound, insertTasks, startTestRunner } from './scene.ts'

let db: TestDatabase
beforeEach(async () => {
  db = await createScene()
})
afterEach(async () => {
  await expectSound(db.pool)
  await db.drop()
})

const payload = z.object({})
const rate = { tasks: 10, per: '1 s', burst: 2 } as const

function stageOf(name: string, options: { concurrency?: number; rate?: typeof rate } = {}) {
  const { concurrency = 20 } = options
  return defineStage({
    name,
    payload,
    concurrency,
    ...(options.rate && { limits: { rate: options.rate } }),
    async run() {},
  })
}

const tasks = (n: number): object[] => Array.from({ length: n }, () => ({}))

async function startsOf(stage: string): Promise<number[]> {
  const { rows } = await db.pool.query<{ ms: number }>(
    `select (extract(epoch from a.leased_at) * 1000)::float8 as ms from leasehold.attempts a
     join leasehold.tasks t on t.id = a.task_id where t.stage = $1 order by 1`,
    [stage],
  )
  return rows.map((row) => row.ms)
}

test('a limited stage is drained within its limit, and its runner’s other stage does not wait for it', async () => {
  const [slow, quick] = [stageOf('slow', { rate }), stageOf('quick')]
  await registerStage(db.pool, slow)
  await registerStage(db.pool, quick)
  const slowIds = await insertTasks(db.pool, 'slow', tasks(30))
  const quickIds = await insertTasks(db.pool, 'quick', tasks(500))
  const runner = await startTestRunner(db, { stages: [slow, quick] })
  await endsOf(db.pool, quickIds)
  await endsOf(db.pool, slowIds)
  await runner.drain()
  const starts = await startsOf('slow')
  expect(starts).toHaveLength(30)
  for (const [i, at] of starts.entries()) {
    const within = starts.filter((other) => other >= at && other <= at + 1000).length
    expect(within, `from start ${i}`).toBeLessThanOrEqual(12)
  }
  // Five hundred at twenty a time: had they waited for the limit, they would have ended with it or after it.
  const others = await startsOf('quick')
  expect(others.at(-1)!).toBeLessThan(starts.at(-1)!)
})

test('while a limit holds everything back the runner waits for the next start, and hardly looks meanwhile', async () => {
  const stage = stageOf('slow')
  await registerStage(db.pool, stage)
  const ids = await insertTasks(db.pool, 'slow', tasks(4))
  const runner = await startTestRunner(db, {
    stages: [defineStage({ ...stage, limits: { rate: { tasks: 2, per: '1 s', burst: 1 } } })],
    maxPollMs: 60_000,
  })
  await endsOf(db.pool, ids)
  // Four starts half a second apart, each settled: a few exchanges for each, and none while nothing may start.
  expect(runner.counts.exchanges).toBeLessThan(20)
  // Idle again it is told of what comes.
  const [late] = await insertTasks(db.pool, 'slow', tasks(1))
  await endsOf(db.pool, [late!])
  await runner.drain()
})

test('nothing of a limited stage is fetched ahead: for the limit it would have started', async () => {
  const seen = { held: 0, runner: null as Runner | null }
  const stage = defineStage({
    name: 'quick',
    payload,
    limits: { rate: { tasks: 100_000, per: '1 s', burst: 100_000 } },
    async run() {
      seen.held = Math.max(seen.held, seen.runner!.counts.held)
    },
  })
  seen.runner = await startTestRunner(db, { stages: [stage] })
  await endsOf(db.pool, await insertTasks(db.pool, 'quick', tasks(120)))
  expect(seen.held).toBeLessThanOrEqual(2) // the one that runs, and one whose settlement is under way
  await seen.runner.drain()
})

test('a limit that is changed while the runner works is obeyed', async () => {
  const stage = stageOf('slow')
  await registerStage(db.pool, stage)
  const ids = await insertTasks(db.pool, 'slow', tasks(6))
  const hour = { tasks: 1, per: '1 h', burst: 1 } as const
  const runner = await startTestRunner(db, { stages: [defineStage({ ...stage, limits: { rate: hour } })] })
  await eventually(async () => (await startsOf('slow')).length === 1)
  expect((await listStages(db.pool, { stage: 'slow' }))[0]).toMatchObject({
    ready: 5,
    status: 'rate limited',
  })
  await registerStage(db.pool, { name: 'slow', limits: { rate: { tasks: 100, per: '1 s', burst: 10 } } })
  await endsOf(db.pool, ids)
  await runner.drain()
})

test('a runner whose stage has no limit takes an earlier one away', async () => {
  const stage = stageOf('slow')
  await registerStage(db.pool, { name: 'slow', limits: { rate } })
  const runner = await startTestRunner(db, { stages: [stage] })
  expect((await listStages(db.pool, { stage: 'slow' }))[0]!.rate).toBeNull()
  await runner.drain()
})
