/**
 * What a handler returns, throws or cannot be given: each outcome leads where the contract says, whatever it is made of.
 *
 * One database and one runner for the file; each test has a stage of its own in it.
 */
import { defineStage, type Outcome, taskLogs, type TaskContext } from '@leasehold/queue'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { z } from 'zod'
import type { TestDatabase } from '../../../test/harness/database.ts'
import {
  attemptsOf,
  createScene,
  endOf,
  eventually,
  expectSound,
  insertTasks,
  startTestRunner,
} from './scene.ts'

type Handler = (ctx: TaskContext) => unknown

/** The handlers of the tests, by name: a task's payload says which one works it. */
const handlers = new Map<string, Handler>()
const anything = z.object({ handler: z.string() })
const flexible = defineStage({
  name: 'flexible',
  payload: anything,
  concurrency: 20,
  retry: { attempts: 3, from: 20, to: 40 },
  run: async (ctx) => (await handlers.get(ctx.payload.handler)!(ctx)) as Outcome,
})
const strict = defineStage({
  name: 'strict',
  payload: z.object({ company: z.object({ id: z.int(), name: z.string() }) }),
  result: z.object({ score: z.number() }),
  retry: { attempts: 2, from: 20, to: 40 },
  run: async (ctx) => ({
    outcome: 'done',
    result: { score: ctx.payload.company.name === 'none' ? 'no number' : 7 } as never,
  }),
})

let db: TestDatabase
let runner: Awaited<ReturnType<typeof startTestRunner>>
beforeAll(async () => {
  db = await createScene()
  // Values that the database refuses, whatever becomes of strange ones before they get there.
  await db.pool.query(
    'alter table leasehold.attempts add constraint refused_result check (result is distinct from \'"refuse me"\')',
  )
  await db.pool.query(
    "alter table leasehold.task_logs add constraint refused_line check (message <> 'refuse me')",
  )
  runner = await startTestRunner(db, { stages: [flexible, strict] })
})
afterAll(async () => {
  await runner.drain()
  await expectSound(db.pool)
  await db.drop()
})

/** Submits one task for a handler; its name is the test's. */
async function submitFor(handler: Handler): Promise<string> {
  const name = expect.getState().currentTestName!
  handlers.set(name, handler)
  const [id] = await insertTasks(db.pool, 'flexible', [{ handler: name }])
  return id!
}

async function outcomesOf(id: string): Promise<string[]> {
  return (await attemptsOf(db.pool, id)).map((attempt) => attempt.outcome)
}

test('a payload that plain SQL submitted and that does not fit its stage is dead at once, with what is wrong where', async () => {
  const [id] = await insertTasks(db.pool, 'strict', [{ company: { id: 'seven', nam: 'x' } }])
  const task = await endOf(db.pool, id!)
  expect(task).toMatchObject({ state: 'dead', attempt: 1 })
  expect(task.lastError).toMatchObject({
    code: 'payload_invalid',
    issues: [
      { path: 'company.id', message: expect.stringContaining('expected') },
      { path: 'company.name', message: expect.stringContaining('expected') },
    ],
  })
  expect(task.lastError?.message).toContain('company.id')
})

test('a result that fits its stage is stored, one that does not fails the attempt', async () => {
  const [fits, misfits] = await insertTasks(db.pool, 'strict', [
    { company: { id: 1, name: 'a' } },
    { company: { id: 2, name: 'none' } },
  ])
  expect(await endOf(db.pool, fits!)).toMatchObject({ state: 'done', result: { score: 7 } })
  const task = await endOf(db.pool, misfits!)
  expect(task).toMatchObject({ state: 'dead', attempt: 2, result: null })
  expect(task.lastError).toMatchObject({ code: 'result_invalid', message: expect.stringContaining('score') })
})

test('a handler that returns nothing is done, without a result', async () => {
  const id = await submitFor(() => undefined)
  expect(await endOf(db.pool, id)).toMatchObject({ state: 'done', attempt: 1, result: null, lastError: null })
})

test.each([[7], ['text'], [null], [false], [[1, 2]], [{ deep: { er: 1 } }]])(
  'the result %j is stored as it is',
  async (result) => {
    const id = await submitFor(() => ({ outcome: 'done', result }))
    expect(await endOf(db.pool, id)).toMatchObject({ state: 'done', result })
  },
)

test('retry counts an attempt and comes back after the given time', async () => {
  const id = await submitFor((ctx) =>
    ctx.attempt === 1 ? { outcome: 'retry', afterMs: 30, reason: 'rate limited' } : undefined,
  )
  expect(await endOf(db.pool, id)).toMatchObject({ state: 'done', attempt: 2 })
  const [first] = await attemptsOf(db.pool, id)
  expect(first).toMatchObject({ outcome: 'retry', error: { code: 'retry', message: 'rate limited' } })
})

test('a retry for later waits in scheduled until then', async () => {
  const id = await submitFor(() => ({ outcome: 'retry', afterMs: 3_600_000, reason: 'tomorrow' }))
  const { rows } = await eventually(async () => {
    const found = await db.pool.query<{ ms: number }>(
      'select extract(epoch from run_at - leasehold.clock())::float8 * 1000 as ms from leasehold.scheduled where task_id = $1',
      [id],
    )
    return found.rowCount === 1 && found
  })
  expect(rows[0]!.ms).toBeGreaterThan(3_500_000)
  expect(rows[0]!.ms).toBeLessThanOrEqual(3_600_000)
})

test('dead ends a task at once, whatever attempts are left', async () => {
  const id = await submitFor(() => ({ outcome: 'dead', reason: 'no such company' }))
  const task = await endOf(db.pool, id)
  expect(task).toMatchObject({
    state: 'dead',
    attempt: 1,
    lastError: { code: 'dead', message: 'no such company' },
  })
})

test('snooze comes back later and counts no attempt', async () => {
  let turns = 0
  const id = await submitFor((ctx) => {
    turns += 1
    expect(ctx.attempt).toBe(1)
    return turns < 3 ? { outcome: 'snooze', afterMs: 1, reason: 'not yet' } : undefined
  })
  // The least snooze is a second of the database's time.
  const passing = eventually(async () => {
    await db.pool.query(
      "update leasehold.scheduled set run_at = run_at - interval '1 second' where task_id = $1",
      [id],
    )
    return (await outcomesOf(id)).length === 3
  })
  expect(await endOf(db.pool, id)).toMatchObject({ state: 'done', attempt: 1 })
  await passing
  expect(await outcomesOf(id)).toEqual(['snoozed', 'snoozed', 'done'])
})

test('cancel ends a task as not wanted any more', async () => {
  const id = await submitFor(() => ({ outcome: 'cancel', reason: 'withdrawn' }))
  expect(await endOf(db.pool, id)).toMatchObject({ state: 'cancelled', lastError: { message: 'withdrawn' } })
})

test.each([['a text'], [42], [{ outcome: 'finished' }], [{ status: 'done' }], [[]], [{ settled: true }]])(
  'returning %j, which is no outcome, is dead at once and says what to return',
  async (returned) => {
    const id = await submitFor(() => returned)
    const task = await endOf(db.pool, id)
    expect(task).toMatchObject({ state: 'dead', attempt: 1, lastError: { code: 'outcome_unknown' } })
    expect(task.lastError?.message).toContain("'done' | 'retry'")
  },
)

test('what is thrown fails the attempt, is retried as often as the stage says, and is kept with code and stack', async () => {
  const id = await submitFor(() => {
    throw Object.assign(new Error('the site is down'), { code: 'ECONNREFUSED' })
  })
  const task = await endOf(db.pool, id)
  expect(task).toMatchObject({
    state: 'dead',
    attempt: 3,
    lastError: { code: 'ECONNREFUSED', message: 'the site is down' },
  })
  expect(task.lastError).toHaveProperty('stack')
  expect((await attemptsOf(db.pool, id)).map((a) => [a.outcome, a.attempt])).toEqual([
    ['retry', 1],
    ['retry', 2],
    ['dead', 3],
  ])
})

test('an error that says it is not retryable ends the task', async () => {
  const id = await submitFor(() => {
    throw Object.assign(new Error('gone'), { retryable: false })
  })
  expect(await endOf(db.pool, id)).toMatchObject({ state: 'dead', attempt: 1 })
})

test("a task's own number of attempts goes before its stage's", async () => {
  handlers.set('fails', () => {
    throw new Error('no')
  })
  const { rows } = await db.pool.query<{ id: string }>(
    `insert into leasehold.tasks (stage, payload, max_attempts) values ('flexible', '{"handler": "fails"}', 1), ('flexible', '{"handler": "fails"}', 4)
     returning id::text`,
  )
  expect(await endOf(db.pool, rows[0]!.id)).toMatchObject({ state: 'dead', attempt: 1 })
  expect(await endOf(db.pool, rows[1]!.id)).toMatchObject({ state: 'dead', attempt: 4 })
})

test.each<[string, () => unknown, string]>([
  ['a text', () => 'only a text', 'only a text'],
  ['undefined', () => undefined, 'null'],
  ['null', () => null, 'null'],
  ['an object', () => ({ why: 'because' }), '{"why":"because"}'],
  ['a symbol', () => Symbol('x'), '"Symbol(x)"'],
  ['an error without a text message', () => Object.assign(new Error('x'), { message: 7 }), ''],
  ['an object that throws when it is looked at', () => new Proxy({}, { get: () => { throw new Error('trap') } }), ''], // prettier-ignore
  ['an error with NUL and half a surrogate', () => new Error('a\u0000b\ud800'), 'a\ufffdb\ufffd'],
])('throwing %s fails the attempt like any other', async (_what, thrown, said) => {
  const id = await submitFor(() => {
    throw thrown()
  })
  const task = await endOf(db.pool, id)
  expect(task).toMatchObject({ state: 'dead', attempt: 3 })
  expect(task.lastError?.message).toContain(said)
})

const nested = (depth: number): unknown => {
  let value: unknown = 1
  for (let i = 0; i < depth; i++) value = { value }
  return value
}
const circular: Record<string, unknown> = { name: 'me' }
circular['self'] = circular

test.each<[string, unknown, unknown]>([
  ['NUL and half surrogates', { a: 'x\u0000y\udfff' }, { a: 'x\ufffdy\ufffd' }],
  ['bigints', { small: 7n, large: 2n ** 63n }, { small: 7, large: 2n ** 63n }],
  ['a circle', circular, { name: 'me', self: '[circular]' }],
  ['NaN and infinity', [Number.NaN, Infinity], [null, null]],
  ['__proto__ as a name', JSON.parse('{"__proto__": {"x": 1}}'), JSON.parse('{"__proto__": {"x": 1}}')],
  ['markup and control characters', { t: '<b>\u001b[31m\r\n\u202e' }, { t: '<b>\u001b[31m\r\n\u202e' }],
])('a result with %s is stored', async (_what, result, stored) => {
  const id = await submitFor(() => ({ outcome: 'done', result }))
  expect((await endOf(db.pool, id)).result).toEqual(stored)
})

test.each<[string, () => unknown, object]>([
  ['is nested 100,000 deep', () => nested(100_000), {}],
  ['throws when it is made into JSON', () => ({ toJSON: () => { throw new TypeError('no JSON') } }), {}], // prettier-ignore
  ['has NUL in a name', () => ({ 'a\u0000b': 1 }), {}],
  [
    'is larger than a mebibyte',
    () => 'x'.repeat(1_100_000),
    { state: 'dead', lastError: { code: 'result_too_large' } },
  ],
  ['the database refuses', () => 'refuse me', { state: 'dead', attempt: 3, lastError: { code: '23514' } }],
])('a result that %s ends its own task and harms no other', async (_what, result, expected) => {
  const neighbours = await Promise.all(Array.from({ length: 10 }, (_, i) => submitNeighbour(i)))
  const id = await submitFor(() => ({ outcome: 'done', result: result() }))
  expect(await endOf(db.pool, id)).toMatchObject(expected)
  for (const neighbour of neighbours)
    expect(await endOf(db.pool, neighbour)).toMatchObject({ state: 'done', attempt: 1 })
})

async function submitNeighbour(i: number): Promise<string> {
  handlers.set('neighbour', (ctx) => {
    ctx.log.info('here')
    return { outcome: 'done', result: ctx.task.id }
  })
  const [id] = await insertTasks(db.pool, 'flexible', [{ handler: 'neighbour', i }])
  return id!
}

test.each<[string, Outcome]>([
  ['no number', { outcome: 'snooze', afterMs: Number.NaN }],
  ['infinity', { outcome: 'retry', afterMs: Infinity, reason: 'never' }],
  ['far too large', { outcome: 'retry', afterMs: 1e300, reason: 'never' }],
  ['a text', { outcome: 'snooze', afterMs: 'soon' as never }],
  ['negative', { outcome: 'retry', afterMs: -5, reason: 'yesterday' }],
])('a delay that is %s is bounded and never a stuck batch', async (_what, outcome) => {
  let turns = 0
  const id = await submitFor(() => (++turns === 1 ? outcome : undefined))
  await eventually(async () => (await outcomesOf(id)).length >= 1)
  expect(['retry', 'snoozed']).toContain((await outcomesOf(id))[0])
  const { rows } = await db.pool.query<{ late: boolean }>(
    "select run_at > leasehold.clock() + interval '31 days' as late from leasehold.scheduled where task_id = $1",
    [id],
  )
  expect(rows[0]?.late ?? false).toBe(false)
  await db.pool.query('select leasehold.cancel_task($1)', [id])
})

test('log lines, also strange ones, are stored with the task in their order', async () => {
  const id = await submitFor((ctx) => {
    ctx.log.info('first', { n: 1 })
    ctx.log.warn('NUL \u0000 and \ud800')
    ctx.log.error('third', { circular })
    ctx.log.debug(new Error('not even a text') as never)
  })
  await endOf(db.pool, id)
  expect((await taskLogs(db.pool, id)).map((line) => [line.level, line.message, line.fields])).toEqual([
    ['info', 'first', { n: 1 }],
    ['warn', 'NUL \ufffd and \ufffd', null],
    ['error', 'third', { circular: { name: 'me', self: '[circular]' } }],
    ['debug', 'not even a text', null],
  ])
})

test('log lines that the database refuses cost the lines of that task and nothing else', async () => {
  const neighbours = await Promise.all(Array.from({ length: 5 }, (_, i) => submitNeighbour(i)))
  const id = await submitFor((ctx) => ctx.log.info('refuse me'))
  expect((await endOf(db.pool, id)).state).toBe('done')
  expect(await taskLogs(db.pool, id)).toEqual([])
  for (const neighbour of neighbours) {
    await endOf(db.pool, neighbour)
    expect((await taskLogs(db.pool, neighbour)).map((line) => line.message)).toEqual(['here'])
  }
})

test('a log is capped for each attempt and says so', async () => {
  const id = await submitFor((ctx) => {
    for (let i = 0; i < 5000; i++) ctx.log.info(`line ${i}`)
  })
  await endOf(db.pool, id)
  const lines = await taskLogs(db.pool, id, { limit: 10_000 })
  expect(lines.length).toBe(1001)
  expect(lines[0]!.message).toBe('line 0')
  expect(lines.at(-1)).toMatchObject({ level: 'warn', message: expect.stringContaining('full') })
})

test('progress shows while the task runs, bounded and however small', async () => {
  const gate = Promise.withResolvers<void>()
  const id = await submitFor(async (ctx) => {
    ctx.progress(1e-50, 'just begun')
    ctx.progress(7, 'over')
    ctx.progress(0.25, 'a quarter')
    await gate.promise
  })
  await eventually(async () => {
    const { rows } = await db.pool.query(
      'select progress, progress_message from leasehold.task_status where task_id = $1',
      [id],
    )
    return rows[0]!['progress'] === 0.25 && rows[0]!['progress_message'] === 'a quarter'
  })
  gate.resolve()
  await endOf(db.pool, id)
})

test('a checkpoint is worked out once and survives a retry', async () => {
  let worked = 0
  const seen: unknown[] = []
  const id = await submitFor(async (ctx) => {
    seen.push(
      await ctx.checkpoint('fetched', async () => ({ turn: ++worked, nul: 'a\u0000', ids: [5n, 2n ** 63n] })),
    )
    if (ctx.attempt < 3) throw new Error('again')
    return { outcome: 'done', result: seen.length }
  })
  expect(await endOf(db.pool, id)).toMatchObject({ state: 'done', result: 3 })
  expect(worked).toBe(1)
  expect(seen).toEqual(Array.from({ length: 3 }, () => ({ turn: 1, nul: 'a\ufffd', ids: [5, 2n ** 63n] })))
})

test.each([[''], ['x'.repeat(201)], ['a\u0000']])(
  'a checkpoint named %j is refused before its work is done',
  async (name) => {
    let worked = false
    const id = await submitFor((ctx) => ctx.checkpoint(name, async () => (worked = true)))
    expect(await endOf(db.pool, id)).toMatchObject({ state: 'dead', lastError: { code: 'VALUE_REFUSED' } })
    expect(worked).toBe(false)
  },
)
