/**
 * The counts of a run are right after whatever its tasks went through, and merging their entries does not change them.
 *
 * The audit holds the counts against the tasks; here the numbers themselves are named. Who shows them: reads.test.ts.
 */
import { type Db, type RunStageProgress, runProgress } from '@leasehold/queue'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { addStage, addWorker, claim, claimOne, insertTask, problems, settle, settleDone } from './scene.ts'

let database: TestDatabase
let db: Db

beforeAll(async () => {
  database = await createTestDatabase()
  db = database.pool
})
afterAll(() => database.drop())

async function countsOf(run: string): Promise<Partial<RunStageProgress>[]> {
  return (await runProgress(db, run)).map(({ submitted, done, dead, cancelled, open }) => ({
    submitted,
    done,
    dead,
    cancelled,
    open,
  }))
}

async function merged(on: Db): Promise<number> {
  const { rows } = await on.query<{ n: number }>('select leasehold.compact_run_ledger() as n')
  return rows[0]!.n
}

test('every end is counted once, a second life takes the first end back', async () => {
  const stage = await addStage(db, { max_crashes: 1 })
  const worker = await addWorker(db, [stage], { slot: 'counting' })
  const run = { run_id: 'all ends' }
  for (let i = 0; i < 6; i++) await insertTask(db, stage, run)
  const parent = await insertTask(db, stage, run)
  await insertTask(db, stage, { ...run, depends_on: [parent] })
  await insertTask(db, stage, run)

  const leases = (await claim(db, worker, stage, 7)).toSorted((a, b) => Number(a.taskId) - Number(b.taskId))
  await settleDone(db, worker, leases.slice(0, 2))
  await settle(db, worker, leases[2]!, 'done', { result: 1, children: [{ stage }] })
  await settle(db, worker, leases[3]!, 'fail', { retryable: false })
  await settle(db, worker, leases[4]!, 'cancel')
  await settle(db, worker, leases[5]!, 'release')
  await settle(db, worker, leases[6]!, 'fail', { retryable: false }) // the parent: its child is cancelled
  await db.query('select leasehold.process_nudges($1)', [[stage]])
  expect(await countsOf('all ends')).toEqual([{ submitted: 10, done: 3, dead: 2, cancelled: 2, open: 3 }])

  await claim(db, worker, stage, 1)
  const next = await addWorker(db, [stage], { slot: 'counting', ttl: '1 hour' }) // one is quarantined
  expect(await countsOf('all ends')).toEqual([{ submitted: 10, done: 3, dead: 3, cancelled: 2, open: 2 }])
  await db.query('select leasehold.retry_task($1)', [leases[3]!.taskId])
  await db.query('select leasehold.retry_task($1)', [leases[4]!.taskId])
  expect(await countsOf('all ends')).toEqual([{ submitted: 10, done: 3, dead: 2, cancelled: 1, open: 4 }])
  await settleDone(db, next, await claim(db, next, stage, 10))
  expect(await countsOf('all ends')).toEqual([{ submitted: 10, done: 7, dead: 2, cancelled: 1, open: 0 }])
  expect(await problems(db)).toEqual([])
})

test('entries are merged while more are written, and the sums stay', async () => {
  const stage = await addStage(db)
  const worker = await addWorker(db, [stage])
  for (let i = 0; i < 60; i++) await insertTask(db, stage, { run_id: 'many' })
  const [open, merging, other] = await Promise.all([1, 2, 3].map(() => database.client()))
  await open!.query('begin')
  await insertTask(open!, stage, { run_id: 'many' })
  await merging!.query('begin')
  expect(await merged(merging!)).toBe(60)
  expect(await merged(other!)).toBe(0)
  await settleDone(db, worker, [await claimOne(db, worker, stage)])
  await merging!.query('commit')
  await open!.query('commit')
  expect(await countsOf('many')).toEqual([{ submitted: 61, done: 1, dead: 0, cancelled: 0, open: 60 }])
  const { rowCount } = await db.query(`select from leasehold.run_ledger where run_id = 'many'`)
  expect(rowCount).toBe(3)
  expect(await problems(db)).toEqual([])
})
