/**
 * A runner with every place taken still hears what happens to its tasks, without waiting for a beat.
 */
import { cancelTask, defineStage, submit } from '@leasehold/queue'
import { startRunner } from '@leasehold/runner'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { z } from 'zod'
import type { TestDatabase } from '../../../test/harness/database.ts'
import { createScene, RememberingLog } from './scene.ts'

let db: TestDatabase
beforeAll(async () => {
  db = await createScene()
})
afterAll(() => db.drop())

test('with all places taken and a beat half a minute away a cancelled task is told within a poll', async () => {
  const entered = Promise.withResolvers<void>()
  const told = Promise.withResolvers<unknown>()
  const stage = defineStage({
    name: 'long',
    payload: z.unknown(),
    concurrency: 1,
    async run(ctx) {
      ctx.signal.addEventListener('abort', () => told.resolve(ctx.signal.reason))
      entered.resolve()
      await told.promise
    },
  })
  const runner = await startRunner({
    connectionString: db.url,
    stages: [stage],
    slot: 'long@1',
    log: new RememberingLog(),
    leaseTtlMs: 90_000,
    beatIntervalMs: 30_000,
    maxPollMs: 200,
    listen: false,
  })
  const startedAt = performance.now()
  const id = await submit(db.pool, stage, {})
  await entered.promise
  expect(await cancelTask(db.pool, id, 'not wanted')).toBe(true)
  expect(await told.promise).toMatchObject({ why: 'cancelled' })
  // The first beat comes after half a minute: whatever told the handler, it was not a beat.
  expect(performance.now() - startedAt).toBeLessThan(29_000)
  await runner.drain()
})
