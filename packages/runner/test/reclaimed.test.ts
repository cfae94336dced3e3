/**
 * A task that an operator takes from a worker which has not heard of it: it comes back while its earlier attempt runs, or
 * is cancelled before the answer to its claim is here.
 */
import { cancelTask, defineStage, inTransaction, retryTask, type TaskContext } from '@leasehold/queue'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { z } from 'zod'
import type { TestDatabase } from '../../../test/harness/database.ts'
import { Proxy } from './proxy.ts'
import {
  attemptsOf,
  createScene,
  endOf,
  eventually,
  expectSound,
  insertTasks,
  startTestRunner,
} from './scene.ts'

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

test('a task that is cancelled while the answer to its claim is under way is not begun', async () => {
  const proxy = await Proxy.to(db.url)
  const begun: string[] = []
  const stage = defineStage({
    name: 'overtaken',
    payload: z.object({}),
    concurrency: 2,
    async run(ctx) {
      begun.push(ctx.task.id)
    },
  })
  const runner = await startTestRunner(db, { stages: [stage], connectionString: proxy.url, listen: false })
  const locker = await db.client()
  await locker.query('begin')
  await locker.query('lock table leasehold.leases in access exclusive mode')
  const [id] = await insertTasks(db.pool, 'overtaken', [{}])
  await eventually(async () => {
    const { rowCount } = await db.pool.query(
      `select from pg_stat_activity where datname = current_database()
        and application_name like 'leasehold exchange%' and wait_event_type = 'Lock'`,
    )
    return rowCount === 1
  })
  const letGo = proxy.holdAnswers('leasehold exchange')
  await locker.query('commit')
  await eventually(async () => (await db.pool.query('select from leasehold.leases')).rowCount === 1)
  await cancelTask(db.pool, id!)
  // A beat takes the revocation; once the next one has come, its answer has been heard.
  await eventually(async () => (await db.pool.query('select from leasehold.revocations')).rowCount === 0)
  const { rows } = await db.pool.query<{ at: Date }>('select leasehold.clock() as at')
  await eventually(async () => {
    const later = await db.pool.query('select from leasehold.workers where beat_at > $1', [rows[0]!.at])
    return later.rowCount === 1
  })
  letGo()
  await eventually(async () => runner.counts.claimed === 1)
  const [other] = await insertTasks(db.pool, 'overtaken', [{}])
  expect((await endOf(db.pool, other!)).state).toBe('done')
  expect(begun).toEqual([other])
  expect((await attemptsOf(db.pool, id!)).map((a) => a.outcome)).toEqual(['cancelled'])
  await runner.drain()
  expect(runner.counts).toMatchObject({ held: 0, refused: 0, stuck: 0 })
  await proxy.close()
})
