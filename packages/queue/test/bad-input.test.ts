/**
 * What cannot be stored is refused whole and by name, and nothing is half-submitted.
 *
 * Through all entrances: a plain INSERT, submit() in SQL, and the library with one and with many. What can be stored
 * comes back as it was: round-trip.test.ts. What handlers leave behind is made storable instead: clean.test.ts.
 */
import {
  type Db,
  DependencyError,
  KeyConflictError,
  type SubmitOptions,
  UnknownStageError,
  ValueRefusedError,
  cancelTask,
  explainTask,
  getTask,
  pauseStage,
  resumeStage,
  submit,
  submitMany,
} from '@leasehold/queue'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { type TaskColumns, addStage, addWorker, claimOne, insertTask, problems, snapshot } from './scene.ts'

let database: TestDatabase
let db: Db
let stage: string
let worker: string

beforeAll(async () => {
  database = await createTestDatabase()
  db = database.pool
  for (const name of ['company_discovery', 'company_research', 'contact_discovery', 'newsletter']) {
    await db.query('select leasehold.register_stage($1)', [name])
  }
})
afterAll(() => database.drop())
beforeEach(async () => {
  stage = await addStage(db)
  worker = await addWorker(db, [stage], { ttl: '1 hour' })
  return async () => expect(await problems(db)).toEqual([])
})

/** The act is refused with this SQLSTATE (its own or its cause's), and all state tables are what they were. */
async function refused(act: () => Promise<unknown>, code: string | RegExp): Promise<unknown> {
  const before = await snapshot(db)
  const error = await act().then(
    () => null,
    (failure: unknown) => failure as { code?: string; sqlState?: string },
  )
  expect(error).not.toBeNull()
  expect(error?.sqlState ?? error?.code).toMatch(code instanceof RegExp ? code : new RegExp(`^${code}$`))
  expect(await snapshot(db)).toEqual(before)
  return error
}

describe('an unknown stage', () => {
  test.each([
    ['company_reserch', 'company_research'],
    ['Company_Discovery', 'company_discovery'],
    ['newsletter ', 'newsletter'],
  ])('%s is refused by SQL with near names', async (wrong, near) => {
    const named = { code: 'LH001', hint: expect.stringContaining(`'${near}'`) as string }
    expect(await refused(() => insertTask(db, wrong), 'LH001')).toMatchObject(named)
    expect(await refused(() => db.query('select leasehold.submit($1)', [wrong]), 'LH001')).toMatchObject(
      named,
    )
  })

  test('is refused by the library with near names, alone and among many', async () => {
    for (const act of [
      () => submit(db, 'company_reserch', {}),
      () => submitMany(db, 'company_reserch', [{ payload: {} }, { payload: {} }]),
    ]) {
      const error = await refused(act, 'UNKNOWN_STAGE')
      expect(error).toBeInstanceOf(UnknownStageError)
      expect((error as UnknownStageError).hint).toContain("'company_research'")
    }
    await expect(pauseStage(db, 'nowhere')).rejects.toBeInstanceOf(UnknownStageError)
    await expect(resumeStage(db, 'nowhere')).rejects.toBeInstanceOf(UnknownStageError)
  })

  test('takes a whole statement with it', async () => {
    await refused(
      () => db.query(`insert into leasehold.tasks (stage) values ($1), ('no_such'), ($1)`, [stage]),
      'LH001',
    )
  })

  test.each([
    ['', 'LH001'],
    ['x'.repeat(10_000), 'LH001'],
    [null, '23502'],
  ] as [string | null, string][])('named %o is refused', async (name, code) => {
    await refused(() => insertTask(db, name as string), code)
    await refused(() => db.query('select leasehold.submit($1)', [name]), 'LH001')
  })
})

const columns: [string, TaskColumns, string, string?][] = [
  ['a priority above 9', { priority: 10 }, '23514', 'task_priority_is_0_to_9'],
  ['a negative priority', { priority: -1 }, '23514', 'task_priority_is_0_to_9'],
  ['a priority beyond smallint', { priority: 70_000 }, '22003'],
  ['a priority that is no number', { priority: 'high' }, '22P02'],
  ['a run_at that never comes', { run_at: 'infinity' }, '23514', 'task_run_at_is_within_100_years'],
  ['a run_at in the year 5000', { run_at: '5000-01-01' }, '23514', 'task_run_at_is_within_100_years'],
  ['a run_at before 1970', { run_at: '1969-12-31T00:00Z' }, '23514', 'task_run_at_is_within_100_years'],
  ['a run_at that is no time', { run_at: 'soon' }, '22007'],
  ['an empty key', { key: '' }, '23514', 'task_key_is_1_to_200_characters'],
  ['a key of 201 characters', { key: 'k'.repeat(201) }, '23514', 'task_key_is_1_to_200_characters'],
  ['a run_id with a newline', { run_id: 'a\nb' }, '23514', 'task_run_id_is_1_to_200_printable'],
  ['an empty run_id', { run_id: '' }, '23514', 'task_run_id_is_1_to_200_printable'],
  ['a title of 501 characters', { title: 't'.repeat(501) }, '23514', 'task_title_is_at_most_500_characters'],
  ['no attempts', { max_attempts: 0 }, '23514', 'task_max_attempts_is_1_to_1000'],
  ['1001 attempts', { max_attempts: 1001 }, '23514', 'task_max_attempts_is_1_to_1000'],
  ['a timeout of nothing', { timeout: '0' }, '23514', 'task_timeout_is_up_to_30_days'],
  ['a negative timeout', { timeout: '-1 s' }, '23514', 'task_timeout_is_up_to_30_days'],
  ['a timeout of 31 days', { timeout: '31 days' }, '23514', 'task_timeout_is_up_to_30_days'],
  ['a parent that is no number', { depends_on: ['x'] }, '22P02'],
  [
    'an empty concurrency key',
    { concurrency_key: '' },
    '23514',
    'task_concurrency_key_is_1_to_200_characters',
  ],
  ['64 KiB of meta', { meta: JSON.stringify('m'.repeat(65_536)) }, '23514', 'task_meta_is_at_most_64_kib'],
  ['no payload', { payload: null }, '23502'],
  ['a payload that is no JSON', { payload: '{"a":' }, '22P02'],
  ['NUL in a payload', { payload: '{"a":"\\u0000"}' }, '22P05'],
  ['half a surrogate pair in a payload', { payload: '{"a":"\\ud800"}' }, '22P02'],
  ['NUL in a text', { title: 'a\u0000b' }, '22021'],
  ['a payload of 100,000 levels', { payload: '['.repeat(100_000) + ']'.repeat(100_000) }, '54001'],
  [
    'a payload above 1 MiB',
    { payload: JSON.stringify('p'.repeat(1_048_576)) },
    '23514',
    'task_payload_is_at_most_1_mib',
  ],
]

test.each(columns)('%s is refused by INSERT and by submit()', async (_, values, code, constraint) => {
  expect(await refused(() => insertTask(db, stage, values), code)).toMatchObject(
    constraint ? { constraint } : {},
  )
  const [[name, value]] = Object.entries(values) as [[string, unknown]]
  await refused(() => db.query(`select leasehold.submit($1, ${name} => $2)`, [stage, value]), code)
})

const cyclic: Record<string, unknown> = {}
cyclic['self'] = cyclic
let deep: unknown = 1
for (let i = 0; i < 100_000; i++) deep = [deep]

const values: [string, unknown, SubmitOptions, RegExp][] = [
  ['a cycle', cyclic, {}, /^22023$/],
  ['a function', () => 1, {}, /^22023$/],
  ['100,000 levels', deep, {}, /^54001$/],
  ['NUL', { a: '\u0000' }, {}, /^22P05$/],
  ['NUL in a name', { 'a\u0000': 1 }, {}, /^22P05$/],
  ['half a surrogate pair', { a: '\ud800' }, {}, /^22P02$/],
  ['more than 1 MiB', 'p'.repeat(1_048_577), {}, /^23514$/],
  ['a cyclic meta', {}, { meta: cyclic }, /^22023$/],
  ['a key with half a surrogate pair', {}, { key: 'a\udfff' }, /^22023$/],
  ['a key with NUL', {}, { key: 'a\u0000' }, /^22(021|P05)$/],
  ['a title that is a number', {}, { title: 5 as never }, /^22023$/],
  ['a run id with an escape sequence', {}, { runId: '\u001b[31m' }, /^23514$/],
  ['a priority of 1.5', {}, { priority: 1.5 }, /^22023$/],
  ['a priority that is no number', {}, { priority: Number.NaN }, /^22023$/],
  ['a priority of 12', {}, { priority: 12 }, /^23514$/],
  ['endless attempts', {}, { maxAttempts: Infinity }, /^22023$/],
  ['a date that is none', {}, { runAt: new Date('soon') }, /^22007$/],
  ['a date as text', {}, { runAt: '2030-01-01' as never }, /^22007$/],
  ['a date beyond all calendars', {}, { runAt: new Date(8.64e15) }, /^22/],
  ['a negative timeout', {}, { timeout: -1 }, /^22023$/],
  ['a timeout without a unit', {}, { timeout: '5' as never }, /^22023$/],
  ['a timeout of 40 days', {}, { timeout: '40 d' }, /^23514$/],
  ['a parent that is no id', {}, { dependsOn: ['one'] }, /^22P02$/],
  ['a parent id that was rounded', {}, { dependsOn: [2 ** 53] as never }, /^22P02$/],
  ['a parent beyond 2^63', {}, { dependsOn: ['9223372036854775808'] }, /^22P02$/],
]

test.each(values)(
  '%s is refused by the library as a value, alone and among many',
  async (_, payload, options, code) => {
    const good = { payload: { fine: true } }
    for (const act of [
      () => submit(db, stage, payload, options),
      () => submitMany(db, stage, [good, { payload, ...options }, good]),
    ]) {
      expect(await refused(act, code)).toBeInstanceOf(ValueRefusedError)
    }
  },
)

test('a refusal inside the caller’s transaction leaves the caller to roll back, and nothing behind', async () => {
  const session = await database.client()
  await refused(async () => {
    await session.query('begin')
    await submit(session, stage, { first: true })
    try {
      await submit(session, stage, {}, { priority: 11 })
    } finally {
      await session.query('rollback')
    }
  }, '23514')
})

test('a missing parent, a held key and a running holder each have an error of their own', async () => {
  await expect(submit(db, stage, {}, { dependsOn: ['999999999'] })).rejects.toBeInstanceOf(DependencyError)
  await submit(db, stage, {}, { key: 'k' })
  await expect(submit(db, stage, {}, { key: 'k' })).rejects.toBeInstanceOf(KeyConflictError)
  await claimOne(db, worker, stage)
  const replace = submit(db, stage, {}, { key: 'k', onKeyConflict: 'replace' })
  await expect(replace).rejects.toBeInstanceOf(KeyConflictError)
})

test.each(['', 'abc', '-1', '1.5', '9223372036854775808', '1'.repeat(100), '1; drop table leasehold.tasks'])(
  'the id %j is refused by every look-up and verb',
  async (id) => {
    for (const act of [getTask, explainTask, cancelTask]) {
      await expect(act(db, id)).rejects.toBeInstanceOf(ValueRefusedError)
    }
    await expect(getTask(db, 17 as never)).rejects.toBeInstanceOf(ValueRefusedError)
  },
)

test.each([
  ['an outcome that does not exist', `select leasehold.settle($1, 1, 1, 'finished')`, '22023'],
  ['no outcome', 'select leasehold.settle($1, 1, 1, null)', '22023'],
  ['children that are no array', `select leasehold.settle($1, 1, 1, 'done', children => '{}')`, '22023'],
  ['leaving without a reason', 'select leasehold.leave($1, null)', '22023'],
  ['a claim in an unknown stage', `select leasehold.claim($1, 'newsleter')`, 'LH001'],
  [
    'endings that are no array',
    `select leasehold.exchange($1, null, null, '{}', null, null, null, null, null, false, null)`,
    '22023',
  ],
  ['a pause into the past', `select leasehold.pause_stage('newsletter', '2020-01-01'), $1::uuid`, '22023'],
  [
    'a worker without stages',
    `select leasehold.register_worker('s', '{}', '30 s', '10 s', 'h'), $1::uuid`,
    '23514',
  ],
  [
    'a worker that beats too seldom',
    `select leasehold.register_worker('s', '{newsletter}', '30 s', '11 s', 'h'), $1::uuid`,
    '23514',
  ],
  [
    'a worker of an unknown stage',
    `select leasehold.register_worker('s', '{newsleter}', '30 s', '10 s', 'h'), $1::uuid`,
    'LH001',
  ],
  ['a stage without a name', 'select leasehold.register_stage(null), $1::uuid', '23502'],
  [
    'a backoff the wrong way round',
    `select leasehold.register_stage('newsletter', p_backoff_min => '1 h', p_backoff_max => '1 s'), $1::uuid`,
    '23514',
  ],
])('%s is refused', async (_, sql, code) => {
  await refused(() => db.query(sql, [worker]), code)
})

test.each([
  ['children => $2', '[{"payload": {}}]', /each of children must be an object with a stage/],
  ['error => $2', '"it broke"', /error must be an object/],
])('settle(… %s) names the field that is wrong, and what it should be', async (argument, value, message) => {
  const settling = db.query(`select leasehold.settle($1, 1, 1, 'fail', ${argument})`, [worker, value])
  await expect(settling).rejects.toMatchObject({ code: '22023', message: expect.stringMatching(message) })
})

test.each([
  ['{}', /p_notes must be an array of objects/],
  ['[7]', /each note must be an object, not 7/],
  ['[{"task_id": 1, "fence": 1, "message": "hello"}]', /kind must be log, progress or checkpoint, not null/],
  ['[{"kind": "log", "fence": 1}]', /task_id must be what claim\(\) returned, not null/],
  ['[{"kind": "log", "task_id": 1}]', /fence must be/],
  ['[{"kind": "checkpoint", "task_id": 1, "fence": 1}]', /name must be the name of the checkpoint/],
])('the notes %s are refused with the field that is wrong', async (notes, message) => {
  const writing = db.query('select leasehold.write_notes($1, $2)', [worker, notes])
  await expect(writing).rejects.toMatchObject({
    code: '22023',
    message: expect.stringMatching(message),
    hint: expect.stringContaining('Correct '),
  })
})
