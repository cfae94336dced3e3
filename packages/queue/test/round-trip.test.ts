/**
 * What can be stored comes back as it was, however hostile it looks, in whatever column, argument or value it stands.
 *
 * Through a plain INSERT, submit() in SQL, and the library with one and with many. What is refused: bad-input.test.ts.
 */
import {
  type Db,
  KeyConflictError,
  UnknownStageError,
  ValueRefusedError,
  cancelTask,
  defineStage,
  explainTask,
  getTask,
  pauseStage,
  registerWorker,
  submit,
  submitMany,
} from '@leasehold/queue'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import {
  type Lease,
  addStage,
  addWorker,
  claim,
  claimOne,
  insertTask,
  problems,
  settle,
  stateOf,
} from './scene.ts'
import { exchanged } from './worker-scene.ts'

let database: TestDatabase
let db: Db
let stage: string
let worker: string

beforeAll(async () => {
  database = await createTestDatabase()
  db = database.pool
})
afterAll(() => database.drop())
beforeEach(async () => {
  stage = await addStage(db)
  worker = await addWorker(db, [stage], { ttl: '1 hour' })
  return async () => expect(await problems(db)).toEqual([])
})

test('a payload just below 1 MiB comes back as it was', async () => {
  const text = 'é'.repeat(524_000)
  const id = await insertTask(db, stage, { payload: JSON.stringify(text) })
  const lease = await claimOne(db, worker, stage)
  expect(lease).toMatchObject({ taskId: id, payload: text })
})

const hostile = [
  `'; drop table leasehold.tasks; --`,
  `"; drop schema leasehold cascade; --`,
  `\\'); drop table leasehold.ready; --`,
  '$$; select 1; $$',
  '%s %I %L %n $1 {0} ${x}',
  'back\\slash \\u0041 \\',
  'two\nlines\r\nand a tab\t',
  '\u001b[31mred\u001b[0m',
  '\u202eright to left\u202c',
  'zero\u200bwidth, line\u2028separator',
  '__proto__',
  '<script>alert(1)</script>',
  'e\u0301 is not é',
  '😀'.repeat(50),
  'x'.repeat(64),
  ' leading and trailing ',
]

const texts = hostile.map((text) => [JSON.stringify(text), text] as const)

test.each(texts)('%s is data, whatever column or value it stands in', async (_, text) => {
  const payload = { [text]: text, list: [text] }
  const options = { key: text, title: text, concurrencyKey: text, meta: { [text]: text } }
  const one = await submit(db, stage, payload, options)
  const [two] = await submitMany(db, stage, [{ payload, ...options, key: `${text}.` }])
  const three = await insertTask(db, stage, {
    payload: JSON.stringify(payload),
    key: `${text}..`,
    title: text,
    concurrency_key: text,
    meta: JSON.stringify({ [text]: text }),
  })
  for (const id of [one, two!, three]) {
    const [lease] = await claim(db, worker, stage, 3)
    expect(lease).toMatchObject({ taskId: id, payload: { list: [text] } })
    expect(Object.keys(lease!.payload as object).toSorted()).toEqual([text, 'list'].toSorted())
    expect(lease!.extra).toMatchObject({ title: text, concurrency_key: text })
    expect(await getTask(db, id)).toMatchObject({ title: text, concurrencyKey: text })
    await settle(db, worker, lease!, 'done', { result: payload })
    expect((await getTask(db, id))?.result).toEqual(payload)
  }
  const again = await submit(db, stage, {}, { key: text })
  await expect(submit(db, stage, {}, { key: text })).rejects.toBeInstanceOf(KeyConflictError)
  await cancelTask(db, again, text)
  expect((await getTask(db, again))?.lastError?.message).toBe(text)
  expect((await explainTask(db, again)).reason).toContain(text)
})

test.each(texts)('%s as a name is stored as it is, or refused by name', async (_, text) => {
  await expect(submit(db, text, {})).rejects.toBeInstanceOf(UnknownStageError)
  await expect(pauseStage(db, text)).rejects.toBeInstanceOf(UnknownStageError)
  const wellNamed = /^[a-z][a-z0-9_.-]{0,47}$/.test(text)
  const registered = db.query('select leasehold.register_stage($1)', [text])
  if (!wellNamed)
    await expect(registered).rejects.toMatchObject({ code: '23514', constraint: 'stage_name_is_plain' })
  expect(() =>
    defineStage({ name: text, payload: undefined as never, run: () => Promise.resolve() }),
  ).toThrow(ValueRefusedError)
  const introduction = {
    slot: text,
    stages: [stage],
    leaseTtlMs: 30_000,
    beatIntervalMs: 10_000,
    host: text,
    pid: 1,
    version: text,
    concurrency: 1,
    meta: { [text]: text },
  }
  if (/^[!-~]{1,100}$/.test(text)) {
    const { workerId } = await registerWorker(db, introduction)
    const { rows } = await db.query('select slot, host, version, meta from leasehold.workers where id = $1', [
      workerId,
    ])
    expect(rows).toEqual([{ slot: text, host: text, version: text, meta: { [text]: text } }])
    await db.query('select leasehold.leave($1, $2)', [workerId, text])
  } else {
    const refusal = { sqlState: '23514', constraint: 'worker_slot_is_1_to_100_printable' }
    await expect(registerWorker(db, introduction)).rejects.toMatchObject(refusal)
  }
  const { rows } = await db.query<{ found: boolean }>('select leasehold.drain_slot($1) as found', [text])
  expect(rows).toEqual([{ found: false }])
})

test.each(texts)('%s in logs, progress and checkpoints comes back as it was', async (_, text) => {
  await insertTask(db, stage)
  const lease = await claimOne(db, worker, stage)
  const at = { task_id: lease.taskId, fence: lease.fence }
  const notes = [
    { ...at, kind: 'log', level: 'info', message: text, fields: { [text]: text } },
    { ...at, kind: 'progress', fraction: 0.5, message: text },
    { ...at, kind: 'checkpoint', name: text, value: text },
  ]
  await db.query('select leasehold.write_notes($1, $2)', [worker, JSON.stringify(notes)])
  const { rows } = await db.query(
    `select l.message, l.fields, p.message as progress, c.name, c.value from leasehold.task_logs l
     join leasehold.task_progress p using (task_id) join leasehold.task_checkpoints c using (task_id) where task_id = $1`,
    [lease.taskId],
  )
  expect(rows).toEqual([{ message: text, fields: { [text]: text }, progress: text, name: text, value: text }])
  await settle(db, worker, lease, 'fail', { error: { code: text, message: text }, retryable: false })
  expect((await getTask(db, lease.taskId))?.lastError).toEqual({ code: text, message: text })
})

// A batch is claimed in order and returned in any.
function byId(a: Lease, b: Lease): number {
  return Number(BigInt(a.taskId) - BigInt(b.taskId))
}

test.each([null, 0, -0.5, '', 'text', true, [], {}, [null], { a: null }, 1e21, 0.1 + 0.2])(
  'the payload %j comes back as it was through every entrance',
  async (payload) => {
    await submit(db, stage, payload)
    await submitMany(db, stage, [{ payload }])
    await insertTask(db, stage, { payload: JSON.stringify(payload) })
    const parent = await insertTask(db, stage)
    const leases = (await claim(db, worker, stage, 4)).toSorted(byId)
    expect(leases.slice(0, 3).map((lease) => lease.payload)).toEqual([payload, payload, payload])
    expect(leases[3]!.taskId).toBe(parent)
    await settle(db, worker, leases[3]!, 'done', { children: [{ stage, payload }, { stage }] })
    const children = await claim(db, worker, stage, 4)
    expect(children.toSorted(byId).map((lease) => lease.payload)).toEqual([payload, {}])
  },
)

test('numbers beyond what JavaScript can hold pass through the database unharmed', async () => {
  const payload = '{"huge": 1e400, "id": 9223372036854775807, "price": 1.10}'
  const id = await insertTask(db, stage, { payload })
  const { claimed } = await exchanged({ workerId: worker, stages: [stage], limits: [1] }, db)
  expect(claimed).toHaveLength(1)
  expect(claimed[0]).toMatchObject({
    taskId: id,
    payload: { huge: 10n ** 400n, id: 9223372036854775807n, price: 1.1 },
  })
  const { rows } = await db.query('select payload::text as text from leasehold.tasks where id = $1', [id])
  expect(rows[0]!.text).toContain('"id": 9223372036854775807')
  expect(rows[0]!.text).toContain('"price": 1.10')
})

test('ids beyond 2^53 are exact everywhere', async () => {
  const far = await createTestDatabase()
  try {
    const start = 2n ** 53n + 1n
    await far.pool.query(`select setval('leasehold.tasks_id_seq', $1, false)`, [String(start)])
    await far.pool.query(`select setval('leasehold.fences', $1, false)`, [String(start)])
    const parents = await addStage(far.pool)
    const children = await addStage(far.pool)
    const by = await addWorker(far.pool, [parents, children])
    const parent = await submit(far.pool, parents, {})
    const [child] = await submitMany(far.pool, children, [{ payload: {}, dependsOn: [parent] }])
    expect([parent, child]).toEqual([String(start), String(start + 1n)])
    expect((await explainTask(far.pool, child!)).reason).toContain(parent)
    const lease = await claimOne(far.pool, by, parents)
    expect([lease.taskId, BigInt(lease.fence) >= start]).toEqual([parent, true])
    await settle(far.pool, by, lease, 'done', { children: [{ stage: parents }] })
    expect(await getTask(far.pool, parent)).toMatchObject({ taskId: parent, state: 'done' })
    const last = await claimOne(far.pool, by, parents)
    expect(last.taskId).toBe(String(start + 2n))
    expect((await claimOne(far.pool, by, children)).taskId).toBe(child)
    await cancelTask(far.pool, last.taskId)
    const { rows } = await far.pool.query('select revoked from leasehold.heartbeat($1)', [by])
    expect(rows).toEqual([{ revoked: [{ task_id: last.taskId, fence: last.fence, reason: 'cancelled' }] }])
    expect(await stateOf(far.pool, last.taskId)).toBe('cancelled')
    expect(await problems(far.pool)).toEqual([])
  } finally {
    await far.drop()
  }
})
