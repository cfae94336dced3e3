/**
 * The library's verbs for workers: one exchange settles, notes, submits children and claims; effects and settlement
 * commit together; who sleeps is woken, and nobody else.
 *
 * Who may write under which lease is fencing.test.ts; the loop around these verbs is @leasehold/runner.
 */
import {
  type ClaimedRow,
  type Db,
  type ExchangeRequest,
  type Receipt,
  advanceFloors,
  defineStage,
  exchange,
  getTask,
  heartbeat,
  leave,
  monitorSilenceMs,
  readCheckpoint,
  registerStage,
  registerWorker,
  releaseDeadWorkers,
  returnStrays,
  settle,
  submit,
  submitMany,
  writeNotes,
} from '@leasehold/queue'
import { once } from 'node:events'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { z } from 'zod'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { addStage, insertTask, outcomesOf, problems, stateOf } from './scene.ts'

let database: TestDatabase
let db: Db
let stage: string
let worker: string
let slots = 0

beforeAll(async () => {
  database = await createTestDatabase()
  db = database.pool
  await db.query('create table public.effects (task_id bigint not null)')
})
afterAll(() => database.drop())
beforeEach(async () => {
  stage = await addStage(db)
  worker = await register([stage])
  return async () => {
    expect(await problems(db)).toEqual([])
    await leave(db, worker, 'test over')
  }
})

async function register(stages: string[], leaseTtlMs = 3_600_000): Promise<string> {
  const { workerId } = await registerWorker(db, {
    slot: `slot-${++slots}`,
    stages,
    leaseTtlMs,
    beatIntervalMs: Math.floor(leaseTtlMs / 3),
    host: 'host.test',
    pid: 1,
    version: 'test',
    concurrency: 10,
  })
  return workerId
}

/** An exchange that does only what is named. */
function exchanged(
  request: Partial<ExchangeRequest>,
  on: Db = db,
): Promise<{ receipt: Receipt; claimed: ClaimedRow[] }> {
  return exchange(on, {
    workerId: worker,
    doneIds: [],
    doneFences: [],
    endings: null,
    children: null,
    notes: null,
    stages: null,
    limits: null,
    runId: null,
    promote: false,
    wakeMs: null,
    ...request,
  })
}

async function claimed(n: number, more: Partial<ExchangeRequest> = {}): Promise<ClaimedRow[]> {
  return (await exchanged({ stages: [stage], limits: [n], ...more })).claimed
}

test('one exchange settles what ended, keeps its notes and children, and claims what is next', async () => {
  const ids = await submitMany(
    db,
    stage,
    [1, 2, 3, 4].map((n) => ({ payload: { n }, runId: 'run' })),
  )
  const [a, b, c] = (await claimed(3)).toSorted((x, y) => Number(x[0]) - Number(y[0]))
  const at = { task_id: b![0], fence: b![1] }
  const next = await exchanged({
    doneIds: [a![0]],
    doneFences: [a![1]],
    endings: JSON.stringify([
      { ...at, outcome: 'done', result: { sum: 1 } },
      { task_id: c![0], fence: c![1], outcome: 'fail', error: { code: 'e', message: 'm' }, retryable: false },
    ]),
    children: JSON.stringify([
      { parent_id: b![0], stage, payload: { child: 1 } },
      { parent_id: b![0], stage, payload: { child: 2 }, run_id: 'other' },
      { parent_id: ids[3], stage, payload: { stray: true } },
    ]),
    notes: JSON.stringify([
      { ...at, kind: 'log', level: 'info', message: 'last words', at_ms_ago: 1000 },
      { ...at, kind: 'progress', fraction: 0.5, message: 'half' },
      { ...at, kind: 'progress', fraction: 1, message: 'whole' },
    ]),
    stages: [stage],
    limits: [10],
  })
  expect(next.receipt).toEqual({ worker: 'live' })
  const payloads = next.claimed.map((row) => JSON.parse(row[4]) as object)
  expect(payloads).toEqual(expect.arrayContaining([{ n: 4 }, { child: 1 }, { child: 2 }]))
  expect(payloads).toHaveLength(3)
  const runs = next.claimed.map((row) => (JSON.parse(row[5]!) as { run_id: string }).run_id)
  expect(runs.toSorted()).toEqual(['other', 'run', 'run'])
  expect(await getTask(db, b![0])).toMatchObject({
    state: 'done',
    result: { sum: 1 },
    progress: 1,
    progressMessage: 'whole',
  })
  const states = await Promise.all([a, c].map((row) => stateOf(db, row![0])))
  expect(states).toEqual(['done', 'dead'])
})

test('children of a refused settlement are not submitted', async () => {
  const id = await submit(db, stage, {})
  const [row] = await claimed(1)
  await db.query('select leasehold.cancel_task($1)', [id])
  const { receipt } = await exchanged({
    endings: JSON.stringify([{ task_id: id, fence: row![1], outcome: 'done' }]),
    children: JSON.stringify([{ parent_id: id, stage }]),
  })
  expect(receipt).toMatchObject({ refused: [id], revoked: [{ task_id: id, reason: 'cancelled' }] })
  expect(await claimed(5)).toEqual([])
})

test('a child that cannot be submitted takes the whole exchange back', async () => {
  const id = await submit(db, stage, {})
  const [row] = await claimed(1)
  const ending = JSON.stringify([{ task_id: id, fence: row![1], outcome: 'done' }])
  const children = JSON.stringify([{ parent_id: id, stage: 'no_such_stage' }])
  await expect(exchanged({ endings: ending, children })).rejects.toMatchObject({ code: 'LH001' })
  expect(await stateOf(db, id)).toBe('running')
})

test('a transaction that has locked its worker and is left open is ended by the server, unless a time was set', async () => {
  const session = await database.client()
  const limit = async () =>
    (
      await session.query<{ ms: string }>(
        "select current_setting('idle_in_transaction_session_timeout') as ms",
      )
    ).rows[0]!.ms
  for (const write of [
    (lease: string) => settle(session, worker, `[{${lease},"outcome":"done"}]`, null),
    (lease: string) => writeNotes(session, worker, `[{${lease},"kind":"progress","fraction":1}]`),
  ]) {
    await submit(db, stage, {})
    const [row] = await claimed(1)
    const lease = `"task_id":"${row![0]}","fence":"${row![1]}"`
    await session.query('begin')
    expect(await write(lease)).toBe(true)
    expect(await limit()).toBe('1min')
    await session.query('rollback')
    expect(await limit()).toBe('0')
    await session.query("begin; set local idle_in_transaction_session_timeout = '5s'")
    expect(await write(lease)).toBe(true)
    expect(await limit()).toBe('5s')
    await session.query('rollback')
  }
})

test('effects and settlement commit together, or not at all', async () => {
  const id = await submit(db, stage, {})
  const [row] = await claimed(1)
  const ending = JSON.stringify([{ task_id: id, fence: row![1], outcome: 'done' }])
  const session = await database.client()
  for (const end of ['rollback', 'commit']) {
    await session.query('begin')
    await session.query('insert into public.effects values ($1)', [id])
    expect(await settle(session, worker, ending, null)).toBe(true)
    await session.query(end)
  }
  await session.query('begin')
  await session.query('insert into public.effects values ($1)', [id])
  expect(await settle(session, worker, ending, null)).toBe(false)
  await session.query('rollback')
  const { rowCount } = await db.query('select from public.effects where task_id = $1', [id])
  expect(rowCount).toBe(1)
  expect(await outcomesOf(db, id)).toEqual(['done'])
})

test.each(['repeatable read', 'serializable'])(
  'an exchange at %s is refused and changes nothing',
  async (isolation) => {
    const id = await submit(db, stage, {})
    const session = await database.client()
    await session.query(`begin isolation level ${isolation}`)
    await expect(exchanged({ stages: [stage], limits: [1] }, session)).rejects.toMatchObject({
      code: 'LH004',
    })
    await session.query('rollback')
    expect(await stateOf(db, id)).toBe('ready')
  },
)

test('checkpoints are kept once, through attempts, and null is a value', async () => {
  const id = await submit(db, stage, {})
  const [row] = await claimed(1)
  const note = (name: string, value: unknown): string =>
    JSON.stringify([{ task_id: id, fence: row![1], kind: 'checkpoint', name, value }])
  expect(await readCheckpoint(db, id, 'step')).toBeNull()
  expect(await writeNotes(db, worker, note('step', { a: 1 }))).toBe(true)
  expect(await writeNotes(db, worker, note('step', { a: 2 }))).toBe(true)
  expect(await writeNotes(db, worker, note('nothing', null))).toBe(true)
  expect(JSON.parse((await readCheckpoint(db, id, 'step'))!)).toEqual({ a: 1 })
  expect(await readCheckpoint(db, id, 'nothing')).toBe('null')
})

test('higher priorities are claimed first, and equal ones in order of submission', async () => {
  const priorities = [5, 0, 9, 5, 8, 0, 9]
  const ids = await submitMany(
    db,
    stage,
    priorities.map((priority) => ({ payload: {}, priority })),
  )
  const order: string[] = []
  for (let i = 0; i < ids.length; i++) order.push((await claimed(1))[0]![0])
  expect(order).toEqual([2, 6, 4, 0, 3, 1, 5].map((i) => ids[i]))
})

test('a worker of several stages gets of each no more than it asked for', async () => {
  const other = await addStage(db)
  await submitMany(
    db,
    stage,
    Array.from({ length: 5 }, () => ({ payload: {} })),
  )
  await submitMany(
    db,
    other,
    Array.from({ length: 5 }, () => ({ payload: {} })),
  )
  const rows = await claimed(0, { stages: [other, stage, 'no_such_stage'], limits: [2, 3, 4] })
  expect(rows.map((row) => row[2])).toEqual([other, other, stage, stage, stage])
  expect(await claimed(0)).toEqual([])
})

test('a worker restricted to a run passes all others by', async () => {
  await submitMany(
    db,
    stage,
    ['one', 'two', 'one'].map((runId) => ({ payload: { runId }, runId })),
  )
  await submit(db, stage, {})
  const rows = await claimed(10, { runId: 'one' })
  expect(rows.map((row) => JSON.parse(row[4]) as unknown)).toEqual([{ runId: 'one' }, { runId: 'one' }])
  expect(await claimed(10)).toHaveLength(2)
})

test('due tasks are promoted in order, and a look says when the next one is due', async () => {
  const { rows } = await db.query<{ now: Date }>('select leasehold.clock() as now')
  const after = (ms: number): Date => new Date(rows[0]!.now.getTime() + ms)
  const late = await submit(db, stage, {}, { runAt: after(120_000) })
  const early = await submit(db, stage, {}, { runAt: after(60_000) })
  const look = await exchanged({ stages: [stage], limits: [5], promote: true })
  expect(look.claimed).toEqual([])
  expect(look.receipt.due_in_ms).toBeGreaterThan(0)
  expect(look.receipt.due_in_ms).toBeLessThanOrEqual(60_000)
  await database.advance(120_001)
  const order = [(await claimed(1, { promote: true }))[0]![0], (await claimed(1))[0]![0]]
  expect(order).toEqual([early, late])
})

test('a submission wakes who sleeps, and calls nobody when all are busy', async () => {
  const listener = await database.client()
  await listener.query(`listen "leasehold:${stage}"`)
  const heard: string[] = []
  listener.on('notification', ({ channel, payload }) => heard.push(`${channel}${payload ?? ''}`))
  await submit(db, stage, {})
  await listener.query('select 1')
  expect(heard).toEqual([])

  await exchanged({ stages: [stage], limits: [1], wakeMs: 60_000 })
  const call = once(listener, 'notification')
  await submitMany(
    db,
    stage,
    Array.from({ length: 50 }, () => ({ payload: {} })),
  )
  await call
  await exchanged({ stages: [stage], limits: [1], wakeMs: 0 })
  await submit(db, stage, {})
  await listener.query('select 1')
  expect(heard).toEqual([`leasehold:${stage}`])
})

test('a worker asked to drain is told by exchange and by beat', async () => {
  const { rows } = await db.query<{ slot: string }>('select slot from leasehold.workers where id = $1', [
    worker,
  ])
  await db.query('select leasehold.drain_slot($1)', [rows[0]!.slot])
  expect((await exchanged({})).receipt).toEqual({ worker: 'live', drain: true })
  const beat = { workerId: worker, loopAgeMs: 0, oldestFence: null, running: 0, draining: true, renew: true }
  expect(await heartbeat(db, beat)).toMatchObject({ state: 'live', drain: true })
})

test('a beat that does not renew reports a wedged loop and lets the lease run out', async () => {
  const other = await register([stage], 30_000)
  const beat = {
    workerId: other,
    loopAgeMs: 20_000,
    oldestFence: null,
    running: 1,
    draining: false,
    renew: false,
  }
  await database.advance(20_000)
  expect(await heartbeat(db, beat)).toMatchObject({ state: 'live' })
  await database.advance(11_000)
  expect(await releaseDeadWorkers(db)).toMatchObject([{ workerId: other, released: [], quarantined: [] }])
  expect(await heartbeat(db, { ...beat, renew: true })).toMatchObject({ state: 'ended', reason: 'lost' })
  expect(await heartbeat(db, { ...beat, workerId: '00000000-0000-4000-8000-000000000000' })).toMatchObject({
    state: 'unknown',
  })
})

test('leases that a lost answer left behind are given back, and what the worker knows of is kept', async () => {
  await submitMany(db, stage, [{ payload: {} }, { payload: {} }, { payload: {} }])
  const rows = await claimed(3)
  const [known, fence] = rows[1]!
  const strays = rows.map((row) => row[0]).filter((id) => id !== known)
  expect((await returnStrays(db, worker, [{ taskId: known, fence }]))?.toSorted()).toEqual(strays.toSorted())
  expect(await stateOf(db, known)).toBe('running')
  expect((await claimed(3)).map((row) => `${row[0]} attempt ${row[3]}`).toSorted()).toEqual(
    strays.map((id) => `${id} attempt 1`).toSorted(),
  )
  const ended = await register([stage])
  await leave(db, ended, 'over')
  expect(await returnStrays(db, ended, [])).toBeNull()
})

test('a dead worker is reported with what it held', async () => {
  const other = await register([stage], 30_000)
  const id = await insertTask(db, stage)
  await exchanged({ workerId: other, stages: [stage], limits: [1] })
  await database.advance(31_000)
  expect(await releaseDeadWorkers(db)).toMatchObject([
    { workerId: other, stages: [stage], host: 'host.test', pid: 1, released: [id], quarantined: [] },
  ])
  expect(await releaseDeadWorkers(db)).toEqual([])
})

test('registering a stage again changes what is named and keeps the rest, a pause too', async () => {
  const definition = {
    name: 'settings',
    payload: z.unknown(),
    priority: 7,
    timeout: '5 min' as const,
    retry: { attempts: 9, from: '1 s' as const, to: '2 s' as const },
    limits: { perKey: 4, crashes: 5 },
    expectedWorkers: 2,
    run: () => Promise.resolve(),
  }
  await registerStage(db, defineStage(definition))
  await db.query(`select leasehold.pause_stage('settings')`)
  await registerStage(
    db,
    defineStage({ name: 'settings', payload: z.unknown(), priority: 8, run: definition.run }),
  )
  const { rows } = await db.query(
    `select priority, max_attempts, timeout::text, backoff_min::text, backoff_max::text, key_limit, max_crashes,
       expected_workers, paused_until = 'infinity' as paused from leasehold.stages where name = 'settings'`,
  )
  expect(rows).toEqual([
    {
      priority: 8,
      max_attempts: 9,
      timeout: '00:05:00',
      backoff_min: '00:00:01',
      backoff_max: '00:00:02',
      key_limit: 4,
      max_crashes: 5,
      expected_workers: 2,
      paused: true,
    },
  ])
})

test('floors advance, and nobody has watched yet', async () => {
  expect(await advanceFloors(db)).toBeGreaterThanOrEqual(0)
  expect(await monitorSilenceMs(db)).toBeNull()
})
