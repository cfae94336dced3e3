/**
 * A runner needs no more than the role leasehold_worker: no table of the queue is its to write.
 */
import { randomBytes } from 'node:crypto'
import { openPool } from '@leasehold/postgres'
import { defineStage, returnStrays, taskLogs } from '@leasehold/queue'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { z } from 'zod'
import type { TestDatabase } from '../../../test/harness/database.ts'
import { createScene, endOf, eventually, expectSound, insertTasks, startTestRunner } from './scene.ts'

let db: TestDatabase
const user = `runner_${process.pid}_${randomBytes(3).toString('hex')}`
let url: string
beforeEach(async () => {
  db = await createScene()
  const password = randomBytes(12).toString('hex')
  await db.pool.query(`create role ${user} login password '${password}' in role leasehold_worker`)
  const own = new URL(db.url)
  own.username = user
  own.password = password
  url = own.href
})
afterEach(async () => {
  await db.pool.query(`drop owned by ${user}`)
  await db.pool.query(`drop role ${user}`)
  await db.drop()
})

test('a login in leasehold_worker registers, works in every way there is, and leaves', async () => {
  const child = defineStage({ name: 'child', payload: z.object({}), concurrency: 2, async run() {} })
  const parent = defineStage({
    name: 'parent',
    payload: z.object({}),
    retry: { attempts: 3, from: 10, to: 20 },
    async run(ctx) {
      const worked = await ctx.checkpoint('once', async () => ctx.attempt)
      ctx.log.info('attempt', { worked })
      ctx.progress(0.5)
      if (ctx.attempt === 1) throw new Error('once more')
      if (ctx.attempt === 2) return { outcome: 'retry', afterMs: 1, reason: 'and again' }
      ctx.submit(child, {})
      return ctx.transaction(async () => ({ outcome: 'done', result: worked }))
    },
  })
  await db.pool.query("select leasehold.register_stage('child')")
  const runner = await startTestRunner(db, { stages: [parent, child], connectionString: url })
  const [id] = await insertTasks(db.pool, 'parent', [{}])
  expect(await endOf(db.pool, id!)).toMatchObject({ state: 'done', attempt: 3, result: 1 })
  expect((await taskLogs(db.pool, id!)).map((line) => line.message)).toEqual([
    'attempt',
    'attempt',
    'attempt',
  ])
  await eventually(async () => runner.counts.settled === 4) // two failed attempts, the parent, the child
  const own = openPool({ connectionString: url, applicationName: 'test', max: 1 })
  expect(await returnStrays(own, runner.workerId, [])).toEqual([]) // what a lost answer makes necessary
  await own.end()
  const { rows } = await db.pool.query<{ at: Date }>('select leasehold.clock() as at')
  await eventually(
    async () =>
      (await db.pool.query('select from leasehold.workers where beat_at > $1', [rows[0]!.at])).rowCount === 1,
  )
  const said = runner.log.lines.filter(({ facts }) => /permission denied/.test(String(facts['message'])))
  expect(said).toEqual([])
  await runner.drain()
  const ended = await db.pool.query('select end_reason from leasehold.workers')
  expect(ended.rows).toEqual([{ end_reason: 'graceful-shutdown' }])
  await expectSound(db.pool)
})
