/**
 * A runner knows whether anybody watches: for how long no monitor has looked, when that is longer than it should be.
 */
import { defineStage } from '@leasehold/queue'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { z } from 'zod'
import type { TestDatabase } from '../../../test/harness/database.ts'
import { createScene, eventually, startTestRunner } from './scene.ts'

let db: TestDatabase
beforeAll(async () => {
  db = await createScene()
})
afterAll(() => db.drop())

test('a runner says for how long no monitor has looked, and nothing while one does', async () => {
  const stage = defineStage({ name: 'idle', payload: z.unknown(), run: async () => {} })
  const runner = await startTestRunner(db, { stages: [stage], monitorSilentAfterMs: 180_000 })
  await eventually(async () => runner.unwatchedMs === null)

  const look = `select leasehold.monitor_beat('00000000-0000-4000-8000-000000000001', 'a', 1, '1', 60000)`
  await db.pool.query(look)
  await eventually(async () => runner.unwatchedMs === undefined)

  await db.pool.query(`update leasehold.monitors set ticked_at = leasehold.clock() - interval '4 minutes'`)
  expect(await eventually(async () => runner.unwatchedMs)).toBeGreaterThanOrEqual(240_000)
  await db.pool.query(look)
  await eventually(async () => runner.unwatchedMs === undefined)
  await runner.drain()
})
