/**
 * A payload that kills its worker is set aside after a few deaths, and its neighbours in those workers are not.
 *
 * A runner is played by plain verbs; its death is its slot that starts again. Failures that kill nobody: retries.test.ts.
 */
import type { Db } from '@leasehold/queue'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import {
  type Lease,
  addStage,
  addWorker,
  claim,
  claimOne,
  insertTasks,
  outcomesOf,
  problems,
  settle,
  settleDone,
} from './scene.ts'

let database: TestDatabase
let db: Db

beforeAll(async () => {
  database = await createTestDatabase()
  db = database.pool
})
afterAll(() => database.drop())
beforeEach(() => async () => expect(await problems(db)).toEqual([]))

/** One runner that dies whenever it holds a poison, and its slot starts again; until nothing is left. Its deaths. */
async function runUntilEmpty(stages: string[], poisons: Set<string>, batch: number): Promise<number> {
  const slot = `runner of ${stages[0]!}`.replaceAll(' ', '-')
  let worker = await addWorker(db, stages, { slot })
  let deaths = 0
  for (;;) {
    const held: Lease[] = []
    for (const stage of stages) held.push(...(await claim(db, worker, stage, batch)))
    if (held.length === 0) return deaths
    if (held.some((lease) => poisons.has(lease.taskId))) {
      deaths += 1
      worker = await addWorker(db, stages, { slot })
    } else {
      expect(await settleDone(db, worker, held)).toEqual([])
    }
  }
}

async function statesOf(ids: string[]): Promise<Record<string, number>> {
  const { rows } = await db.query<{ state: string; n: number }>(
    'select state, count(*)::int as n from leasehold.task_status where task_id = any ($1) group by 1',
    [ids],
  )
  return Object.fromEntries(rows.map((row) => [row.state, row.n]))
}

test.each([1, 2, 5])('of 20 innocents and %i poisons only the poisons are set aside', async (n) => {
  const stage = await addStage(db)
  const before = await insertTasks(db, stage, 10)
  const poisons = new Set(await insertTasks(db, stage, n))
  const innocents = [...before, ...(await insertTasks(db, stage, 10))]
  const deaths = await runUntilEmpty([stage], poisons, 30)
  expect(await statesOf(innocents)).toEqual({ done: 20 })
  expect(await statesOf([...poisons])).toEqual({ dead: n })
  expect(deaths).toBe(2 + n)
  for (const poison of poisons) expect(await outcomesOf(db, poison)).toEqual(['lost', 'lost', 'dead'])
  const { rows } = await db.query(
    `select distinct last_error ->> 'code' as code from leasehold.task_status where task_id = any ($1)`,
    [[...poisons]],
  )
  expect(rows).toEqual([{ code: 'quarantined' }])
})

test('innocents of two stages with different limits outlive a poison among them', async () => {
  const strict = await addStage(db, { max_crashes: 2 })
  const lenient = await addStage(db, { max_crashes: 4 })
  const innocents = [...(await insertTasks(db, lenient, 10)), ...(await insertTasks(db, strict, 10))]
  const poisons = new Set(await insertTasks(db, strict, 1))
  await runUntilEmpty([lenient, strict], poisons, 30)
  expect(await statesOf([...poisons])).toEqual({ dead: 1 })
  expect(await statesOf(innocents)).toEqual({ done: 20 })
})

async function suspects(stage: string, n: number): Promise<string[]> {
  const ids = await insertTasks(db, stage, n)
  for (let crash = 0; crash < 2; crash++) {
    const worker = await addWorker(db, [stage], { slot: 'crashing' })
    await claim(db, worker, stage, n)
    await addWorker(db, [stage], { slot: 'crashing' })
  }
  return ids
}

test('suspects run one at a time per worker, beside others', async () => {
  const stage = await addStage(db)
  const ids = await suspects(stage, 3)
  const innocents = await insertTasks(db, stage, 4)
  const [one, two] = [await addWorker(db, [stage]), await addWorker(db, [stage])]
  const first = await claim(db, one, stage, 10)
  expect(first.map((lease) => lease.taskId)).toEqual([ids[0], ...innocents])
  expect(await claim(db, one, stage, 10)).toEqual([])
  expect((await claim(db, two, stage, 10)).map((lease) => lease.taskId)).toEqual([ids[1]])
  await settle(db, one, first[0]!, 'fail', { retry_after: '0' }) // a suspect that fails stays one
  expect((await claim(db, one, stage, 10)).map((lease) => lease.taskId)).toEqual([ids[2]])
  expect(await claim(db, one, stage, 10)).toEqual([])
})

test('two exchanges of one worker at once get one suspect between them', async () => {
  const stage = await addStage(db)
  await suspects(stage, 3)
  const worker = await addWorker(db, [stage])
  const [one, two] = [await database.client(), await database.client()]
  await one.query('begin')
  expect(await claim(one, worker, stage, 10)).toHaveLength(1)
  expect(await claim(two, worker, stage, 10)).toEqual([])
  await one.query('commit')
  expect(await claim(two, worker, stage, 10)).toEqual([])
})

test('a worker that holds a suspect of one stage gets none of another', async () => {
  const [three, two] = [await addStage(db, { max_crashes: 3 }), await addStage(db, { max_crashes: 2 })]
  await suspects(three, 1)
  const [id] = await insertTasks(db, two, 1)
  const crashing = await addWorker(db, [two], { slot: 'crashing-too' })
  await claimOne(db, crashing, two)
  await addWorker(db, [two], { slot: 'crashing-too' })
  const worker = await addWorker(db, [three, two])
  expect((await claim(db, worker, two, 10)).map((lease) => lease.taskId)).toEqual([id])
  expect(await claim(db, worker, three, 10)).toEqual([])
})

test('a stage that forgives no crash sets its tasks aside at the first', async () => {
  const stage = await addStage(db, { max_crashes: 1 })
  const [id] = await insertTasks(db, stage, 1)
  await runUntilEmpty([stage], new Set([id!]), 5)
  expect(await outcomesOf(db, id!)).toEqual(['dead'])
})
