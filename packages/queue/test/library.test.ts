/**
 * The library on its own, as somebody's web app uses it: submit inside their transaction, look up, wait, operate.
 *
 * Every function gets a pool, a client or an open transaction. The verbs of workers are worker-verbs.test.ts; lists are
 * reads.test.ts; refusals are bad-input.test.ts.
 */
import {
  type Db,
  KeyConflictError,
  PayloadInvalidError,
  TaskFailedError,
  TaskHeldBackError,
  TaskNotFoundError,
  WaitTimeoutError,
  cancelTask,
  defineStage,
  drainSlot,
  explainTask,
  getTask,
  inTransaction,
  pauseStage,
  registerStage,
  resumeStage,
  retryTask,
  runNow,
  submit,
  submitMany,
  taskLogs,
  toMs,
  waitForResult,
} from '@leasehold/queue'
import * as library from '@leasehold/queue'
import { createRequire } from 'node:module'
import { Pool } from 'pg'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { z } from 'zod'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { addStage, addWorker, claim, claimOne, problems, settle, stateOf } from './scene.ts'

const greeting = defineStage({
  name: 'greeting',
  payload: z.object({ name: z.string().trim().min(1), times: z.number().int().default(1) }),
  run: () => Promise.resolve(),
})

let database: TestDatabase
let db: Db
let stage: string
let worker: string

beforeAll(async () => {
  database = await createTestDatabase()
  db = database.pool
  await registerStage(db, greeting)
})
afterAll(() => database.drop())
beforeEach(async () => {
  stage = await addStage(db)
  worker = await addWorker(db, [stage, greeting.name], { ttl: '1 hour' })
  return async () => expect(await problems(db)).toEqual([])
})

async function tasksOf(of: string): Promise<number> {
  const { rows } = await db.query<{ n: number }>(
    'select count(*)::int as n from leasehold.tasks where stage = $1',
    [of],
  )
  return rows[0]!.n
}

test('what is submitted in a transaction exists when that commits, and never when it rolls back', async () => {
  const session = await database.client()
  for (const [end, left] of [
    ['rollback', 0],
    ['commit', 3],
  ] as const) {
    await session.query('begin')
    const id = await submit(session, stage, { n: 1 })
    await submitMany(session, stage, [{ payload: { n: 2 } }, { payload: { n: 3 } }])
    expect(await getTask(db, id)).toBeNull()
    expect(await getTask(session, id)).toMatchObject({ state: 'ready' })
    await session.query(end)
    expect(await tasksOf(stage)).toBe(left)
  }
})

test('inTransaction commits what succeeds, rolls back what throws, and joins a transaction that is open', async () => {
  await expect(
    inTransaction(db, async (tx) => {
      await submit(tx, stage, {})
      throw new Error('on purpose')
    }),
  ).rejects.toThrow('on purpose')
  expect(await tasksOf(stage)).toBe(0)
  await inTransaction(db, (tx) => submit(tx, stage, {}))
  expect(await tasksOf(stage)).toBe(1)

  const session = await database.client()
  await session.query('begin')
  await inTransaction(session, (tx) => submit(tx, stage, {}))
  await session.query('rollback')
  expect(await tasksOf(stage)).toBe(1)
})

test('submitMany of nothing does nothing, and of large payloads sends them in pieces', async () => {
  expect(await submitMany(db, stage, [])).toEqual([])
  const large = Array.from({ length: 20 }, (_, n) => ({ payload: { n, text: 'x'.repeat(1_000_000) } }))
  expect(await submitMany(db, stage, large)).toHaveLength(20)
  expect(await claim(db, worker, stage, 20)).toHaveLength(20)
})

test('a typed stage stores what its schema makes of a payload', async () => {
  const id = await submit(db, greeting, { name: ' Ada ' } as never)
  const lease = await claimOne(db, worker, 'greeting')
  expect(lease).toMatchObject({ taskId: id, payload: { name: 'Ada', times: 1 } })
})

test('a payload that does not fit its stage is refused before anything is sent, alone and among many', async () => {
  const before = await tasksOf('greeting')
  const wrong = { name: '', times: 1.5 }
  const single = await submit(db, greeting, wrong).catch((error: unknown) => error)
  expect(single).toBeInstanceOf(PayloadInvalidError)
  expect((single as PayloadInvalidError).issues.map((issue) => issue.path)).toEqual(['name', 'times'])
  const many = submitMany(db, greeting, [{ payload: { name: 'Ada', times: 1 } }, { payload: wrong }])
  await expect(many).rejects.toBeInstanceOf(PayloadInvalidError)
  expect(await tasksOf('greeting')).toBe(before)
})

test('a task is looked up with all its facts', async () => {
  const runAt = new Date(Date.now() + 3_600_000)
  const id = await submit(
    db,
    stage,
    {},
    {
      priority: 8,
      runAt,
      key: 'k',
      runId: 'run-1',
      title: 'a title',
      maxAttempts: 7,
      timeout: '2 min',
      concurrencyKey: 'c',
      meta: { by: 'test' },
    },
  )
  expect(await getTask(db, id)).toMatchObject({
    taskId: id,
    stage,
    state: 'scheduled',
    title: 'a title',
    key: 'k',
    runId: 'run-1',
    concurrencyKey: 'c',
    runAt,
    attempt: 0,
    maxAttempts: 7,
    crashes: 0,
    workerId: null,
    endedAt: null,
  })
  await runNow(db, id)
  const lease = await claimOne(db, worker, stage)
  expect(lease.extra).toEqual({
    run_id: 'run-1',
    key: 'k',
    title: 'a title',
    meta: { by: 'test' },
    priority: 8,
    concurrency_key: 'c',
    max_attempts: 7,
    timeout_ms: 120_000,
  })
  expect(await getTask(db, id)).toMatchObject({
    state: 'running',
    workerId: worker,
    fence: lease.fence,
    attempt: 1,
  })
  await settle(db, worker, lease, 'done', { result: [1, 2] })
  expect(await getTask(db, id)).toMatchObject({ state: 'done', result: [1, 2], workerId: null })
  expect(await getTask(db, '999999999')).toBeNull()
})

test('waitForResult resolves with what the task left, whenever it ends', async () => {
  const id = await submit(db, stage, {})
  const waiting = waitForResult(db, id)
  await settle(db, worker, await claimOne(db, worker, stage), 'done', { result: { sum: 42 } })
  expect(await waiting).toEqual({ sum: 42 })
  expect(await waitForResult(db, id)).toEqual({ sum: 42 })
  const plain = await submit(db, stage, {})
  await settle(db, worker, await claimOne(db, worker, stage), 'done')
  expect(await waitForResult(db, plain)).toBeNull()
})

test('waitForResult rejects with the outcome and error of a task that was not done', async () => {
  const dead = await submit(db, stage, {})
  const error = { code: 'bad', message: 'no such company' }
  await settle(db, worker, await claimOne(db, worker, stage), 'fail', { error, retryable: false })
  await expect(waitForResult(db, dead)).rejects.toMatchObject({ outcome: 'dead', taskId: dead, error })
  const cancelled = await submit(db, stage, {})
  await cancelTask(db, cancelled, 'not wanted')
  const rejected = await waitForResult(db, cancelled).catch((failure: unknown) => failure)
  expect(rejected).toBeInstanceOf(TaskFailedError)
  expect((rejected as Error).message).toContain('not wanted')
})

test('waitForResult ends by its time, by its signal, and for a task that does not exist', async () => {
  const id = await submit(db, stage, {})
  await expect(waitForResult(db, id, { timeoutMs: 1 })).rejects.toBeInstanceOf(WaitTimeoutError)
  const controller = new AbortController()
  const waiting = waitForResult(db, id, { signal: controller.signal })
  controller.abort(new Error('the visitor left'))
  await expect(waiting).rejects.toThrow('the visitor left')
  await expect(waitForResult(db, id, { signal: AbortSignal.abort(new Error('before')) })).rejects.toThrow(
    'before',
  )
  await expect(waitForResult(db, '999999999')).rejects.toBeInstanceOf(TaskNotFoundError)
  expect(await stateOf(db, id)).toBe('ready')
})

test('a paused stage gives out nothing until it is resumed, or its time has come', async () => {
  const id = await submit(db, stage, {})
  await pauseStage(db, stage)
  expect(await claim(db, worker, stage)).toEqual([])
  expect(await explainTask(db, id)).toMatchObject({ state: 'ready', reasonCode: 'stage_paused' })
  await resumeStage(db, stage)
  const [lease] = await claim(db, worker, stage)
  expect(lease?.taskId).toBe(id)

  const { rows } = await db.query<{ now: Date }>('select leasehold.clock() as now')
  const next = await submit(db, stage, {})
  await pauseStage(db, stage, new Date(rows[0]!.now.getTime() + 60_000))
  expect(await settle(db, worker, lease!, 'done')).toBe(true) // what runs goes on
  expect(await claim(db, worker, stage)).toEqual([])
  await database.advance(61_000)
  expect((await claimOne(db, worker, stage)).taskId).toBe(next)
})

test('run_now puts a task before all others of its stage', async () => {
  await submitMany(db, stage, [{ payload: {}, priority: 9 }, { payload: {} }])
  const later = await submit(db, stage, {}, { runAt: new Date(Date.now() + 86_400_000), priority: 0 })
  expect(await runNow(db, later)).toBe(true)
  expect((await claimOne(db, worker, stage)).taskId).toBe(later)
  expect(await runNow(db, later)).toBe(false)
})

test('verbs say what kept them from moving a task', async () => {
  const parent = await submit(db, stage, {})
  const child = await submit(db, stage, {}, { dependsOn: [parent] })
  const held = await runNow(db, child).catch((error: unknown) => error)
  expect(held).toBeInstanceOf(TaskHeldBackError)
  expect((held as Error).message).toContain(parent)
  expect(await explainTask(db, child)).toMatchObject({ state: 'waiting', reasonCode: 'parents_open' })
  expect(await cancelTask(db, parent)).toBe(true)
  expect(await cancelTask(db, parent)).toBe(false)
  await expect(retryTask(db, child)).rejects.toBeInstanceOf(TaskHeldBackError)
  expect(await retryTask(db, parent)).toBe(true)
  expect(await retryTask(db, parent)).toBe(false)
  for (const verb of [cancelTask, retryTask, runNow]) {
    await expect(verb(db, '999999999')).rejects.toMatchObject({ code: 'TASK_NOT_FOUND', taskId: '999999999' })
  }
  expect(await explainTask(db, '999999999')).toMatchObject({ state: 'unknown', reasonCode: 'no_such_task' })
  expect(await drainSlot(db, 'no-such-slot')).toBe(false)
})

test('logs are read in order, from a line on, and no more than asked for', async () => {
  const id = await submit(db, stage, {})
  const { fence } = await claimOne(db, worker, stage)
  const notes = Array.from({ length: 30 }, (_, n) => ({
    task_id: id,
    fence,
    kind: 'log',
    level: n % 2 ? 'warn' : 'info',
    message: `line ${n}`,
    ...(n === 3 ? { fields: { n } } : {}),
  }))
  await db.query('select leasehold.write_notes($1, $2)', [worker, JSON.stringify(notes)])
  const all = await taskLogs(db, id)
  expect(all.map((line) => line.message)).toEqual(notes.map((note) => note.message))
  expect(all[3]).toMatchObject({ level: 'warn', fields: { n: 3 }, fence })
  const page = await taskLogs(db, id, { afterLine: all[9]!.line, limit: 5 })
  expect(page.map((line) => line.message)).toEqual(['line 10', 'line 11', 'line 12', 'line 13', 'line 14'])
  expect(await taskLogs(db, '999999999')).toEqual([])
})

test('durations are milliseconds, or a number with a unit, and nothing else', () => {
  expect([toMs(1.4), toMs('5 s'), toMs('1.5 min'), toMs('2 h'), toMs('1 d')]).toEqual([
    1, 5000, 90_000, 7_200_000, 86_400_000,
  ])
  for (const wrong of [-1, Number.NaN, Infinity, '5', '', '5 weeks', '-1 s', null, true]) {
    expect(() => toMs(wrong as never)).toThrow(library.ValueRefusedError)
  }
})

test('every error has a code of its own, its own name, and ends by saying what to do', () => {
  const example = { taskId: '1', fence: '2', workerId: 'w' }
  const errors = [
    new library.SchemaVersionError({
      problem: 'behind',
      databaseVersion: '1',
      programVersion: '2',
      differing: [],
    }),
    new library.ConfigError([{ name: 'A', problem: 'is missing' }]),
    new library.UnknownStageError('unknown stage', 'Known stages: none.'),
    new library.PayloadInvalidError('s', [{ path: 'a', message: 'no' }]),
    new library.ValueRefusedError('22023', null, 'no'),
    new library.TaskNotFoundError('1'),
    new library.KeyConflictError('held'),
    new library.DependencyError('missing'),
    new library.TaskHeldBackError('waits'),
    new library.LeaseLostError(example),
    new library.TaskEndedError('1'),
    new library.TaskFailedError('1', 'dead', null),
    new library.WaitTimeoutError('1', 5),
    new library.ScheduleBusyError('nightly'),
  ]
  const exported = Object.values(library).filter(
    (value) => typeof value === 'function' && value.prototype instanceof library.LeaseholdError,
  )
  expect(errors.map((error) => error.constructor)).toEqual(expect.arrayContaining(exported))
  expect(new Set(errors.map((error) => error.code)).size).toBe(exported.length)
  for (const error of errors) {
    expect(error.name).toBe(error.constructor.name)
    expect(error.message).toMatch(/\.$/)
  }
})

test('submitMany takes 100,000 tasks at once and answers with their ids in order', async () => {
  const items = Array.from({ length: 100_000 }, (_, n) => ({ payload: { n } }))
  const ids = await submitMany(db, stage, items)
  expect(ids).toHaveLength(100_000)
  const { rows } = await db.query<{ n: number }>(
    `select count(*)::int as n from unnest($1::bigint[]) with ordinality as i(id, nr)
     join leasehold.tasks t on t.id = i.id and (t.payload ->> 'n')::int = i.nr - 1
     join leasehold.ready r on r.task_id = t.id`,
    [ids],
  )
  expect(rows).toEqual([{ n: 100_000 }])
})

/** The Pool of a second copy of `pg`, as an application brings its own. */
function foreignPool(): typeof Pool {
  const require = createRequire(import.meta.url)
  for (const file of Object.keys(require.cache))
    if (/node_modules.pg(-pool)?.lib/.test(file)) delete require.cache[file]
  return (require('pg') as { Pool: typeof Pool }).Pool
}

test("with a pool of somebody else's copy of pg a submission is all or none too", async () => {
  const Foreign = foreignPool()
  const pool = new Foreign({ connectionString: database.url, max: 2 })
  expect(pool).not.toBeInstanceOf(Pool)
  const last = { payload: {}, key: 'twice' }
  // The conflict comes with the second statement.
  const items = [...Array.from({ length: 6000 }, () => ({ payload: {} })), last, last]
  await expect(submitMany(pool, stage, items)).rejects.toThrow(KeyConflictError)
  expect(await tasksOf(stage)).toBe(0)
  expect(await submitMany(pool, stage, items.slice(0, -1))).toHaveLength(6001)
  await pool.end()
})

test.each([
  ['a date, which JSON has as a text', z.object({ at: z.date() }), { at: new Date() }],
  ['what is split once and cannot be split again', z.string().transform((text) => text.split(',')), 'a,b'],
  ['what changes each time it is read', z.string().transform((text) => `${text}!`), 'a'],
])(
  'a schema that would not read at work what it made at submission is refused: %s',
  async (_what, payload, value) => {
    const odd = defineStage({
      name: 'odd',
      payload: payload as z.ZodType,
      run: () => Promise.resolve(),
    })
    await registerStage(db, odd)
    await expect(submit(db, odd, value)).rejects.toThrow(PayloadInvalidError)
    await expect(submitMany(db, odd, [{ payload: value }])).rejects.toThrow(/z\.coerce\.date\(\)/)
    expect(await tasksOf('odd')).toBe(0)
  },
)

test('schemas that fill in, trim and coerce dates are read again as they were made', async () => {
  const payload = z.object({ at: z.coerce.date(), name: z.string().trim().default('x') })
  const dated = defineStage({ name: 'dated', payload, run: () => Promise.resolve() })
  await registerStage(db, dated)
  await submit(db, dated, { at: new Date(0), name: ' y ' })
  const { rows } = await db.query("select payload from leasehold.tasks where stage = 'dated'")
  expect(rows).toEqual([{ payload: { at: '1970-01-01T00:00:00.000Z', name: 'y' } }])
})

const slow = (retry: { from?: '1 min'; to?: '10 s' }) => ({ name: 'slow', retry })

test('one end of the delays between attempts is enough, wherever it lies', async () => {
  const delays = async () =>
    (
      await db.query(
        "select backoff_min::text as least, backoff_max::text as most from leasehold.stages where name = 'slow'",
      )
    ).rows[0]
  await registerStage(db, slow({ from: '1 min' }))
  expect(await delays()).toEqual({ least: '00:01:00', most: '00:01:00' })
  await registerStage(db, slow({ to: '10 s' }))
  expect(await delays()).toEqual({ least: '00:00:05', most: '00:00:10' })
})
