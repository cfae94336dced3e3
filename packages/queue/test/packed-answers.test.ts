/**
 * A batch of new tasks comes in one row: what arrives is what came with a row for each, and what is long or was tried
 * before has a row of its own.
 */
import { type ExchangeAnswer, type SubmitItem, submitMany } from '@leasehold/queue'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../../../test/harness/database.ts'
import { addStage, addWorker } from './scene.ts'
import { exchanged } from './worker-scene.ts'

let db: TestDatabase
beforeAll(async () => {
  db = await createTestDatabase()
})
afterAll(() => db.drop())

interface Row {
  task_id: string | null
  fence: string
  stage: string | null
  attempt: number
  payload: string
  extra: string
}

/** What SQL answers to a claim, without the receipt. `packed`: null for the signature of earlier versions. */
async function rowsOf(stages: string[], packed: boolean | null): Promise<Row[]> {
  const worker = await addWorker(db.pool, stages, { concurrency: 1000 })
  const { rows } = await db.pool.query<Row>(
    `select * from leasehold.exchange($1, null, null, null, null, null, $2, array_fill(100, array[cardinality($2::text[])]),
      null, false, null${packed === null ? '' : `, ${packed}`})`,
    [worker, stages],
  )
  expect(JSON.parse(rows.pop()!.extra)).toEqual({ worker: 'live' })
  return rows
}

async function claimedOf(stages: string[]): Promise<ExchangeAnswer> {
  const workerId = await addWorker(db.pool, stages, { concurrency: 1000 })
  return exchanged({ workerId, stages, limits: stages.map(() => 100) }, db.pool)
}

/** Anything that could be taken for the end of a text, a list or a number. */
const odd: unknown[] = [
  null,
  '',
  '"],"task_ids":["1"',
  [1, [2, [3]]],
  '\u2028 \u0001 ,][}{ \\" ü 🐘',
  { id: 9223372036854775807n, deep: { id: -9007199254740993n } },
  12345678901234567890n,
  'a text with 1234567890123456 digits',
  false,
  { long: 'x'.repeat(20_000) },
  1.5,
]
const items: SubmitItem<unknown>[] = odd.flatMap((payload, i) => [
  { payload },
  {
    payload,
    title: `"],"extras":[${i}`,
    key: `key-${i}`,
    meta: { i, far: 9007199254740993n },
    timeout: '90 s',
    priority: 5,
  },
])

test('a batch arrives as it was submitted, whatever it consists of', async () => {
  const stage = await addStage(db.pool)
  const ids = await submitMany(db.pool, stage, items)
  const { claimed, characters } = await claimedOf([stage])
  expect(claimed.map((task) => task.taskId)).toEqual(ids)
  expect(claimed.map((task) => task.payload)).toEqual(items.map((item) => item.payload))
  for (const [i, { extra, attempt, stage: of }] of claimed.entries()) {
    expect([attempt, of]).toEqual([1, stage])
    if (i % 2 === 0) expect(extra).toBeNull()
    else
      expect(extra).toMatchObject({
        title: items[i]!.title,
        key: items[i]!.key,
        meta: items[i]!.meta,
        timeout_ms: 90_000,
      })
  }
  expect(new Set(claimed.map((task) => task.fence)).size).toBe(1)
  expect(characters).toBeGreaterThan(40_000)
  const leases = await db.pool.query(
    'select task_id, fence from leasehold.leases where stage = $1 order by 1',
    [stage],
  )
  expect(leases.rows).toEqual(claimed.map(({ taskId, fence }) => ({ task_id: taskId, fence })))
})

test('one that is nested as deeply as the database allows keeps nobody from his answer', async () => {
  const stage = await addStage(db.pool)
  await submitMany(db.pool, stage, [{ payload: 1 }])
  const deep = `${'['.repeat(4500)}9007199254740993${']'.repeat(4500)}`
  await db.pool.query('insert into leasehold.tasks (stage, payload) values ($1, $2)', [stage, deep])
  const { claimed } = await claimedOf([stage])
  let value = claimed[1]!.payload
  while (Array.isArray(value)) value = value[0]
  expect([claimed[0]!.payload, value]).toEqual([1, 9007199254740993n])
})

test('one row for a batch of each stage, and one for each task that is long', async () => {
  const stages = [await addStage(db.pool), await addStage(db.pool), await addStage(db.pool)]
  const [short, mixed, long] = stages as [string, string, string]
  await submitMany(db.pool, short, [{ payload: 1 }, { payload: 2 }])
  await submitMany(db.pool, mixed, [{ payload: 'x'.repeat(20_000) as unknown }, { payload: 3 }])
  await submitMany(db.pool, long, [{ payload: { n: 'y'.repeat(20_000) } }])
  const rows = await rowsOf(stages, true)
  expect(rows.map((row) => [row.stage, row.task_id === null, row.payload.length > 10_000])).toEqual([
    [short, true, false],
    [mixed, true, false],
    [mixed, false, true],
    [long, false, true],
  ])
  expect(JSON.parse(rows[0]!.payload)).toEqual([1, 2])
  expect(JSON.parse(rows[0]!.extra)).toEqual({ task_ids: [expect.any(String), expect.any(String)] })
})

test('a program of an earlier version gets a row for each task', async () => {
  for (const packed of [null, false]) {
    const stage = await addStage(db.pool)
    const ids = await submitMany(db.pool, stage, [{ payload: 1 }, { payload: 2, title: 'two' }])
    const rows = await rowsOf([stage], packed)
    expect(rows.map((row) => [row.task_id, row.stage, row.attempt, row.payload])).toEqual([
      [ids[0], stage, 1, '1'],
      [ids[1], stage, 1, '2'],
    ])
    expect(rows.map((row) => JSON.parse(row.extra ?? 'null'))).toEqual([null, { title: 'two' }])
  }
})

test('a batch with one that was tried before knows which it is', async () => {
  const stage = await addStage(db.pool)
  const ids = await submitMany(db.pool, stage, [{ payload: 1 }, { payload: 2 }, { payload: 3 }])
  await db.pool.query('update leasehold.ready set failures = 1, crashes = 1 where task_id = $1', [ids[1]])
  const { claimed } = await claimedOf([stage])
  expect(claimed.map(({ taskId, attempt, extra }) => [taskId, attempt, extra])).toEqual([
    [ids[0], 1, null],
    [ids[1], 2, { crashes: 1 }],
    [ids[2], 1, null],
  ])
})

const five = (payload: string, priority: number): SubmitItem<string>[] =>
  Array.from({ length: 5 }, () => ({ payload, priority }))

test.each([0, 1])(
  'a batch of several priorities comes in their order, with %i that was tried before',
  async (tried) => {
    const stages = [await addStage(db.pool), await addStage(db.pool)]
    const expected: string[] = []
    for (const stage of stages) {
      const low = await submitMany(db.pool, stage, five('low', 2))
      const high = await submitMany(db.pool, stage, [
        { payload: 'x'.repeat(20_000), priority: 8 },
        ...five('high', 8),
      ])
      await db.pool.query('update leasehold.ready set failures = $2 where task_id = $1', [high[3], tried])
      expected.push(...high, ...low)
    }
    const { claimed } = await claimedOf(stages)
    expect(claimed.map((task) => task.taskId)).toEqual(expected)
  },
)

test('a suspect comes first, before a batch of several priorities', async () => {
  const stage = await addStage(db.pool)
  const low = await submitMany(db.pool, stage, five('low', 2))
  const high = await submitMany(db.pool, stage, five('high', 8))
  const suspect = low.pop()!
  await db.pool.query('update leasehold.ready set lane = 11, crashes = 2 where task_id = $1', [suspect])
  const { claimed } = await claimedOf([stage])
  expect(claimed.map((task) => task.taskId)).toEqual([suspect, ...high, ...low])
})
