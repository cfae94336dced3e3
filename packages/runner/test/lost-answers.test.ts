/**
 * Answers of the database that get lost: what was carried out is found out, nothing is done twice and nothing stays behind.
 */
import { defineStage } from '@leasehold/queue'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { z } from 'zod'
import type { TestDatabase } from '../../../test/harness/database.ts'
import { Proxy } from './proxy.ts'
import {
  attemptsOf,
  createScene,
  endOf,
  endsOf,
  eventually,
  expectSound,
  insertTasks,
  startTestRunner,
} from './scene.ts'

let db: TestDatabase
beforeEach(async () => {
  db = await createScene()
})
afterEach(() => db.drop())

test.each([
  ['are given back and done', 0, ['released', 'done']],
  ['for longer than their timeout count as timeouts, and are done', 61_000, ['retry', 'done']],
])('tasks in an answer that was lost %s', async (_, lostForMs, outcomes) => {
  const proxy = await Proxy.to(db.url)
  const stage = defineStage({
    name: 'echo',
    payload: z.object({}),
    concurrency: 5,
    timeout: '1 min',
    retry: { attempts: 3, from: '1 ms', to: '1 ms' },
    async run() {},
  })
  const runner = await startTestRunner(db, {
    stages: [stage],
    leaseTtlMs: 600_000,
    connectionString: proxy.url,
    listen: false,
  })
  const locker = await db.client()
  await locker.query('begin')
  await locker.query('lock table leasehold.leases in access exclusive mode')
  const ids = await insertTasks(db.pool, 'echo', [{}, {}, {}])
  await eventually(async () => {
    const { rowCount } = await db.pool.query(
      `select from pg_stat_activity where datname = current_database()
        and application_name like 'leasehold exchange%' and wait_event_type = 'Lock'`,
    )
    return rowCount === 1
  })
  proxy.swallowAnswers(true)
  await locker.query('commit')
  await eventually(async () => (await db.pool.query('select from leasehold.leases')).rowCount === 3)
  await db.advance(lostForMs)
  proxy.cut()
  const tasks = await endsOf(db.pool, ids)
  expect(tasks.map((task) => task.state)).toEqual(['done', 'done', 'done'])
  expect((await attemptsOf(db.pool, ids[0]!)).map((a) => a.outcome)).toEqual(outcomes)
  expect(runner.log.of('strays.returned')).toMatchObject([{ count: 3 }])
  await runner.drain()
  await proxy.close()
  await expectSound(db.pool)
})

test('a settlement whose answer was lost is sent again and counted once', async () => {
  const proxy = await Proxy.to(db.url)
  const gate = Promise.withResolvers<void>()
  const entered = Promise.withResolvers<void>()
  const stage = defineStage({
    name: 'echo',
    payload: z.object({}),
    concurrency: 1,
    async run() {
      entered.resolve()
      await gate.promise
      return { outcome: 'done', result: 7 }
    },
  })
  const runner = await startTestRunner(db, { stages: [stage], connectionString: proxy.url, listen: false })
  const [id] = await insertTasks(db.pool, 'echo', [{}])
  await entered.promise
  proxy.swallowAnswers(true)
  gate.resolve()
  expect((await endOf(db.pool, id!)).result).toBe(7)
  proxy.cut()
  await eventually(async () => runner.counts.unconfirmed === 1)
  expect((await attemptsOf(db.pool, id!)).map((a) => a.outcome)).toEqual(['done'])
  expect(runner.log.of('lease.lost')).toEqual([])
  await runner.drain()
  await proxy.close()
  await expectSound(db.pool)
})

test('tasks that were claimed with an answer which is an internal error are given back and done', async () => {
  const proxy = await Proxy.to(db.url)
  const gate = Promise.withResolvers<void>()
  const entered = Promise.withResolvers<void>()
  const stage = defineStage({
    name: 'echo',
    payload: z.object({}),
    concurrency: 1,
    async run() {
      entered.resolve()
      await gate.promise
    },
  })
  const runner = await startTestRunner(db, { stages: [stage], connectionString: proxy.url, listen: false })
  const [first, second] = await insertTasks(db.pool, 'echo', [{}, {}])
  await entered.promise
  const letGo = proxy.holdAnswers('leasehold exchange')
  gate.resolve()
  // One exchange settles the first and claims the second; then the pooler, say, answers with an error of its own.
  await endOf(db.pool, first!)
  const { rows } = await db.pool.query('select task_id::text from leasehold.leases')
  expect(rows).toEqual([{ task_id: second }])
  letGo(internalError)
  expect((await endOf(db.pool, second!)).state).toBe('done')
  expect((await attemptsOf(db.pool, second!)).map((a) => a.outcome)).toEqual(['released', 'done'])
  expect(runner.log.of('strays.returned')).toMatchObject([{ count: 1 }])
  expect(runner.counts.unconfirmed).toBe(1)
  await runner.drain()
  await proxy.close()
  await expectSound(db.pool)
})

/** ErrorResponse with SQLSTATE XX000, then ReadyForQuery. */
const internalError = ((): Buffer => {
  const fields = Buffer.from('SERROR\0VERROR\0CXX000\0Mmade up\0\0')
  const head = Buffer.from('E....')
  head.writeInt32BE(fields.length + 4, 1)
  return Buffer.concat([head, fields, Buffer.from('Z\0\0\0\u0005I')])
})()
