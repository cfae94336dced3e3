/**
 * The reads, on a database with a task in every state: each filter narrows, each role sees what it may, nothing changes.
 */
import {
  ValueRefusedError,
  databaseClock,
  databaseHealth,
  invariantViolations,
  listAttempts,
  listDeadWorkers,
  listLeases,
  listRoles,
  listRunTasks,
  listRuns,
  listStages,
  listTasks,
  listWorkers,
  onSnapshot,
  openIncidents,
  readPayload,
  recentFailures,
  retryTask,
  runProgress,
  settingsAdvice,
  submit,
  type TaskState,
} from '@leasehold/queue'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { type Population, populate } from '../../../test/harness/population.ts'

let db: TestDatabase
let ids: Population
beforeAll(async () => {
  db = await createTestDatabase()
  ids = await populate(db)
})
afterAll(() => db.drop())

const states: readonly TaskState[] = ['ready', 'running', 'scheduled', 'waiting', 'done', 'dead', 'cancelled']

test('each state finds its task and no other', async () => {
  for (const state of states) {
    const found = await listTasks(db.pool, { state })
    expect(found.map((task) => [task.taskId, task.state])).toEqual([[ids[state as keyof Population], state]])
    expect(await listTasks(db.pool, { state, stage: found[0]?.stage ?? '' })).toEqual(found)
    expect(await listTasks(db.pool, { state, stage: 'no_such_stage' })).toEqual([])
  }
})

test('lists are the newest first and can be narrowed by run, key and page', async () => {
  const all = (await listTasks(db.pool, { runId: 'run-1' })).map((task) => task.taskId)
  expect(all).toEqual(all.toSorted((a, b) => Number(b) - Number(a)))
  expect(all).toHaveLength(7)
  expect((await listTasks(db.pool, { key: 'key-done' })).map((task) => task.taskId)).toEqual([ids.done])
  const [second] = await listTasks(db.pool, { beforeId: all[0] ?? '', limit: 1 })
  expect(second?.taskId).toBe(all[1])
})

test('a task that died and was reopened is no longer listed as dead', async () => {
  const again = await createTestDatabase()
  try {
    const { dead } = await populate(again)
    expect(await retryTask(again.pool, dead)).toBe(true)
    expect(await listTasks(again.pool, { state: 'dead' })).toEqual([])
    const attempts = await listAttempts(again.pool, dead)
    expect(attempts.map(({ outcome, final }) => [outcome, final])).toEqual([
      ['dead', true],
      ['reopened', false],
    ])
  } finally {
    await again.drop()
  }
})

test('limits outside of 1 to 10,000 are refused before anything is asked', async () => {
  for (const limit of [0, -1, 1.5, 10_001, Number.NaN]) {
    await expect(listTasks(db.pool, { limit })).rejects.toThrow(ValueRefusedError)
  }
})

test('what was submitted is read as JSON text, exact beyond 2^53', async () => {
  const { rows } = await db.pool.query<{ id: string }>(
    `insert into leasehold.tasks (stage, payload, meta, timeout) values ('echo', '{"id": 9007199254740993}', '[1.10]', '90 s') returning id`,
  )
  expect(await readPayload(db.pool, rows[0]?.id ?? '')).toEqual({
    payloadJson: '{"id": 9007199254740993}',
    metaJson: '[1.10]',
    priority: null,
    timeoutMs: 90_000,
    dependsOn: [],
  })
  expect(await readPayload(db.pool, ids.waiting)).toMatchObject({ dependsOn: [ids.ready] })
  expect(await readPayload(db.pool, '999999')).toBeNull()
})

test('a run is summed up over its stages, and its tasks come in order, page by page', async () => {
  expect(await listRuns(db.pool)).toMatchObject([
    { runId: 'run-1', submitted: 7, done: 1, dead: 1, cancelled: 1, open: 4 },
  ])
  expect(await listRuns(db.pool, { open: false })).toEqual([])
  expect(await runProgress(db.pool, 'run-1')).toHaveLength(3)
  expect(await runProgress(db.pool, 'nobody')).toEqual([])
  const first = await listRunTasks(db.pool, 'run-1', { limit: 3 })
  const rest = await listRunTasks(db.pool, 'run-1', { afterId: first.at(-1)?.taskId ?? '' })
  const taskIds = [...first, ...rest].map((task) => task.taskId)
  expect(taskIds).toEqual(taskIds.toSorted((a, b) => Number(a) - Number(b)))
  expect(taskIds).toHaveLength(7)
  expect(first.find((task) => task.taskId === ids.done)?.resultJson).toBe('{"answer": 42}')
})

test('the newest run comes first', async () => {
  await submit(db.pool, 'echo', {}, { runId: 'a-later-run' })
  expect((await listRuns(db.pool)).map((run) => run.runId)).toEqual(['a-later-run', 'run-1'])
})

test('workers are judged by freshness, and leases belong to those that live', async () => {
  const workers = await listWorkers(db.pool)
  expect(workers.map(({ slot }) => slot)).toEqual(['slot-1', 'slot-2'])
  expect(workers[1]?.status).toBe('dead')
  expect(await listWorkers(db.pool, { stage: 'no_such_stage' })).toEqual([])
  expect(await listDeadWorkers(db.pool, { stage: 'echo' })).toMatchObject([{ slot: 'slot-2', stillHolds: 0 }])
  const leases = await listLeases(db.pool, { workerId: ids.workerId, stage: 'endless' })
  expect(leases).toMatchObject([{ taskId: ids.running, slot: 'slot-1', validity: 'valid' }])
})

test('a stage is shown with its depths, its settings and its pause', async () => {
  const [echo] = await listStages(db.pool, { stage: 'echo' })
  expect(echo).toMatchObject({
    scheduled: 1,
    waiting: 1,
    exact: true,
    paused: false,
    timeoutMs: 1_800_000,
    maxAttempts: 3,
  })
  await db.pool.query("select leasehold.pause_stage('broken')")
  await db.pool.query("select leasehold.pause_stage('endless', leasehold.clock() + interval '1 h')")
  const [broken, endless] = [
    (await listStages(db.pool, { stage: 'broken' }))[0],
    (await listStages(db.pool, { stage: 'endless' }))[0],
  ]
  expect(broken).toMatchObject({ status: 'paused', paused: true, pausedUntil: null })
  expect(endless?.pausedUntil?.getTime()).toBeGreaterThan((await databaseClock(db.pool)).getTime())
})

test('health, incidents, failures, roles and settings answer, and no invariant is broken', async () => {
  expect(await invariantViolations(db.pool)).toEqual([])
  expect(await openIncidents(db.pool)).toEqual([])
  expect(await recentFailures(db.pool)).toMatchObject([
    { taskId: ids.dead, code: 'E_BROKEN', outcome: 'dead' },
  ])
  expect((await databaseHealth(db.pool))[0]).toMatchObject({ name: 'monitor', status: 'bad' })
  expect((await listRoles(db.pool)).every((role) => role.exists)).toBe(true)
  const advice = await settingsAdvice(db.pool)
  expect(advice.find((check) => check.name === 'autovacuum')?.status).toBe('ok')
})

test('an observer may list tasks of every state and everything about health, but reads no payload', async () => {
  const client = await db.client()
  await client.query('set role leasehold_observer')
  for (const state of states) {
    const found = await listTasks(client, { state, runId: 'run-1' })
    expect(found.map((task) => task.taskId)).toEqual([ids[state as keyof Population]])
  }
  expect(await readPayload(client, ids.done)).toBeNull()
  expect(await listAttempts(client, ids.done)).toHaveLength(1)
  const reads = [
    listStages,
    listWorkers,
    listDeadWorkers,
    listLeases,
    listRuns,
    databaseHealth,
    openIncidents,
    recentFailures,
  ]
  for (const read of [...reads, invariantViolations, settingsAdvice]) await read(client)
})

test('a snapshot sees one state of affairs, cannot write, and ends statements that take too long', async () => {
  const seen = await onSnapshot(db.pool, 5_000, async (tx) => {
    const before = await listTasks(tx, { runId: 'meanwhile' })
    await submit(db.pool, 'echo', {}, { runId: 'meanwhile' })
    return [before.length, (await listTasks(tx, { runId: 'meanwhile' })).length]
  })
  expect(seen).toEqual([0, 0])
  await expect(onSnapshot(db.pool, 5_000, (tx) => submit(tx, 'echo', {}))).rejects.toMatchObject({
    code: '25006',
  })
  await expect(onSnapshot(db.pool, 20, (tx) => tx.query('select pg_sleep(10)'))).rejects.toMatchObject({
    code: '57014',
  })
})
