/**
 * A task that comes back to the worker which still runs its earlier attempt: restarted by an operator.
 */
import { cancelTask, defineStage, inTransaction, retryTask, type TaskContext } from '@leasehold/queue'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { z } from 'zod'
import type { TestDatabase } from '../../../test/harness/database.ts'
import { attemptsOf, createScene, endOf, expectSound, insertTasks, startTestRunner } from './scene.ts'

let db: TestDatabase
beforeEach(async () => {
  db = await createScene()
})
afterEach(async () => {
  await expectSound(db.pool)
  await db.drop()
})

test('cancelled and retried in one transaction, the first attempt is told before the second one runs', async () => {
  const entered: TaskContext[] = []
  const first = Promise.withResolvers<void>()
  const stage = defineStage({
    name: 'restarted',
    payload: z.object({}),
    concurrency: 2,
    async run(ctx) {
      entered.push(ctx as never)
      if (entered.length > 1) return
      first.resolve()
      await new Promise((resolve) => ctx.signal.addEventListener('abort', resolve))
    },
  })
  const runner = await startTestRunner(db, { stages: [stage] })
  const [id] = await insertTasks(db.pool, 'restarted', [{}])
  await first.promise
  await inTransaction(db.pool, async (tx) => {
    await cancelTask(tx, id!)
    await retryTask(tx, id!)
  })
  expect((await endOf(db.pool, id!)).state).toBe('done')
  expect(entered.map((ctx) => ctx.signal.aborted)).toEqual([true, false])
  expect((await attemptsOf(db.pool, id!)).map((a) => a.outcome)).toEqual(['cancelled', 'reopened', 'done'])
  await runner.drain()
  expect(runner.counts).toMatchObject({ held: 0, stuck: 0 })
})
