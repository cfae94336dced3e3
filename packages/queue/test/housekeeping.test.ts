/**
 * Duties on record, and retention from its settings to the dropped range: the soak in miniature, on the movable clock.
 *
 * A million ids pass by jumps of the sequence. What a single range may or may not lose is partitions.test.ts.
 */
import {
  type Db,
  ValueRefusedError,
  databaseHealth,
  duties,
  listHousekeeping,
  readRetention,
  registerDuties,
  retentionPlan,
  setRetention,
  takeTurn,
} from '@leasehold/queue'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import {
  addStage,
  addWorker,
  claim,
  insertTask,
  insertTasks,
  problems,
  settleDone,
  stateOf,
} from './scene.ts'

const minute = 60_000

let database: TestDatabase
let db: Db

beforeAll(async () => {
  database = await createTestDatabase()
  db = database.pool
})
afterAll(() => database.drop())
afterEach(async () => expect(await problems(db)).toEqual([]))

async function take(name: string): Promise<Record<string, unknown>> {
  const did = await takeTurn(
    db,
    duties.find((duty) => duty.name === name)!,
    'test',
  )
  if (did === null) throw new Error(`${name} was under way`)
  return { ...did }
}

async function one<T>(sql: string, ...values: unknown[]): Promise<T> {
  const { rows } = await db.query<{ answer: T }>(`select (${sql}) as answer`, values)
  return rows[0]!.answer
}

async function finish(stage: string): Promise<void> {
  const worker = await addWorker(db, [stage])
  await settleDone(db, worker, await claim(db, worker, stage, 100))
  await db.query('select leasehold.leave($1)', [worker])
}

async function readyToVacuum(): Promise<number> {
  return one(`select count(*)::integer from leasehold.tables_to_vacuum() where name = 'ready'`)
}

async function check(name: string): Promise<{ status: string; value: string | null }> {
  return (await databaseHealth(db)).find((health) => health.name === name)!
}

test('a million ids pass, and the ranges that are left are those of the last minutes', async () => {
  const stage = await addStage(db)
  await setRetention(db, { keepTasksMs: minute, rotateEveryMs: 20_000, rangeIds: 100_000 })
  const pinned = await insertTask(db, stage, { run_at: new Date(Date.now() + 365 * 86_400_000) })
  let dropped = 0
  for (let turn = 0; turn < 18; turn++) {
    await insertTasks(db, stage, 3)
    await finish(stage)
    await db.query(`select setval('leasehold.tasks_id_seq', last_value + 60000) from leasehold.tasks_id_seq`)
    await database.advance(30_000)
    await take('partitions')
    dropped += Number((await take('retention'))['rangesDropped'])
  }
  expect(await one<number>(`select last_value::float8 from leasehold.tasks_id_seq`)).toBeGreaterThan(
    1_000_000,
  )
  expect(dropped).toBeGreaterThan(10)
  expect(await stateOf(db, pinned)).toBe('scheduled')
  const ranges = await retentionPlan(db)
  expect(ranges[0]).toMatchObject({ action: 'keep', reason: `1 task of it is unfinished: ${pinned}` })
  expect(ranges.filter((range) => range.openedAt !== null).length).toBeLessThanOrEqual(6)
  const tables = await one<number>(
    `select count(*)::integer from pg_class where relname ~ '^(tasks|attempts|task_[a-z]+)_[0-9]+$' and relkind = 'r'`,
  )
  expect(tables).toBe(ranges.length * 5)
  expect(await check('retention lag')).toMatchObject({ status: 'ok' })
  await database.advance(2 * 3_600_000)
  expect(await check('retention lag')).toMatchObject({
    status: 'warn',
    value: expect.stringContaining(`1 task of it is unfinished: ${pinned}`) as string,
  })
  await db.query('select leasehold.cancel_task($1)', [pinned])
})

test('the plan tells what the next turn drops, and drops nothing', async () => {
  const stage = await addStage(db)
  await insertTasks(db, stage, 3)
  await finish(stage)
  await database.advance(minute)
  await take('partitions')
  await database.advance(10 * minute)
  const planned = (await retentionPlan(db)).filter((range) => range.action === 'drop')
  expect(planned.length).toBeGreaterThan(0)
  expect(planned.every((range) => range.bytes > 0 && range.reason === null)).toBe(true)
  const again = (await retentionPlan(db)).filter((range) => range.action === 'drop')
  // Size and number of tasks are estimates, which an autovacuum in between makes better.
  const withoutEstimates = planned.map((range) => ({
    ...range,
    bytes: expect.any(Number) as number,
    tasks: expect.any(Number) as number,
  }))
  expect(again).toEqual(withoutEstimates)
  expect(await take('retention')).toMatchObject({
    rangesDropped: planned.length,
    tablesDropped: planned.length * 5,
  })
  expect((await retentionPlan(db)).filter((range) => range.action !== 'keep')).toEqual([])
})

test('kept for ever means that nothing is dropped, and no range is begun by the clock', async () => {
  await setRetention(db, { keepTasksMs: null, rotateEveryMs: null, rangeIds: null })
  const stage = await addStage(db)
  await insertTasks(db, stage, 3)
  await finish(stage)
  await database.advance(1_000 * 86_400_000)
  expect(await take('partitions')).toMatchObject({ rotated: 0 })
  expect(await take('retention')).toMatchObject({ rangesDropped: 0, straysDeleted: 0 })
  expect((await retentionPlan(db)).every((range) => range.action === 'keep')).toBe(true)
})

test('settings that cannot work are refused with the rule they break, and nothing changes', async () => {
  const before = await readRetention(db)
  await expect(setRetention(db, { keepTasksMs: 1_000 })).rejects.toThrow(
    /retention keeps tasks at least 1 minute/,
  )
  await expect(setRetention(db, { keepTasksMs: 86_400_000, rotateEveryMs: minute })).rejects.toThrow(
    /at most 50 ranges/,
  )
  await expect(setRetention(db, { rangeIds: 1 })).rejects.toThrow(ValueRefusedError)
  await expect(one(`leasehold.set_retention('{"keep_task": "1 day"}')`)).rejects.toThrow(
    /no setting 'keep_task'/,
  )
  expect(await readRetention(db)).toEqual(before)
})

test('a duty is taken by one process at a time; one that died with it holds it for five minutes', async () => {
  const begin = (by: string): Promise<boolean> =>
    one(`leasehold.begin_duty('tidy', '* * * * *', '1 minute', $1)`, by)
  const begun = await Promise.all(['a', 'b', 'c', 'd'].map(begin))
  expect(begun.filter(Boolean)).toHaveLength(1)
  await database.advance(6 * minute)
  expect(await begin('e')).toBe(true)
  await one(`leasehold.end_duty('tidy', 'a', '{}', null)`) // the dead one says its word after all
  expect((await listHousekeeping(db)).find((record) => record.duty === 'tidy')).toMatchObject({
    outcome: 'running',
    startedBy: 'e',
  })
  await one(`leasehold.end_duty('tidy', 'e', '{}', null)`)
})

test('a failed turn is on record with its error, and one that succeeds clears it', async () => {
  await db.query('alter function leasehold.compact_run_ledger rename to gone')
  await expect(take('run_ledger')).rejects.toThrow(/compact_run_ledger/)
  await expect(take('run_ledger')).rejects.toThrow(/compact_run_ledger/)
  await db.query('alter function leasehold.gone rename to compact_run_ledger')
  const record = async (): Promise<unknown> =>
    (await listHousekeeping(db)).find((found) => found.duty === 'run_ledger')
  expect(await record()).toMatchObject({
    outcome: 'failed',
    failuresInARow: 2,
    error: expect.stringContaining('compact_run_ledger') as string,
  })
  await take('run_ledger')
  expect(await record()).toMatchObject({ outcome: 'done', failuresInARow: 0, error: null })
})

test('a duty is overdue when it has not succeeded for three periods, while a monitor was there to do it', async () => {
  const overdue = async (): Promise<string[]> =>
    (await listHousekeeping(db)).filter((record) => record.overdue).map((record) => record.duty)
  const beat = (): Promise<unknown> =>
    one(`leasehold.monitor_beat($1, 'host.test', 1, 'test', 60000)`, monitor)
  const monitor = crypto.randomUUID()
  await registerDuties(db)
  await database.advance(60 * minute)
  expect(await overdue()).toEqual([]) // nobody was there
  await beat()
  for (let passed = 0; passed < 10; passed++) {
    await database.advance(minute)
    await beat()
    await take('depths')
  }
  expect(await overdue()).toEqual(['partitions', 'run_ledger', 'vacuum'])
  expect(await check('housekeeping')).toMatchObject({
    status: 'bad',
    value: 'partitions, run_ledger, vacuum overdue',
  })
  const { rows } = await db.query<{ subject: string }>(
    `select subject from leasehold.current_conditions('1 minute', '1 minute', '30 seconds')
     where kind = 'housekeeping_overdue' order by 1`,
  )
  expect(rows.map((row) => row.subject)).toEqual(['partitions', 'run_ledger', 'vacuum'])
  for (const duty of ['partitions', 'run_ledger', 'vacuum']) await take(duty)
  expect(await overdue()).toEqual([])
})

test('rows that nobody needs go as the settings say, and what is younger stays', async () => {
  const stage = await addStage(db)
  await take('tidy') // what other tests have left
  for (const age of ['29 days', '31 days']) {
    const worker = await addWorker(db, [stage])
    await db.query(`select leasehold.leave($1)`, [worker])
    await db.query(`update leasehold.workers set ended_at = leasehold.clock() - $2::interval where id = $1`, [
      worker,
      age,
    ])
  }
  const before = await one<number>('select count(*)::integer from leasehold.workers')
  expect(await take('tidy')).toMatchObject({ workers: 1 })
  expect(await one<number>('select count(*)::integer from leasehold.workers')).toBe(before - 1)
  expect(await take('tidy')).not.toHaveProperty('workers')
})

test('counts of runs are forgotten with their last task, and not before', async () => {
  const stage = await addStage(db)
  await insertTask(db, stage, { run_id: 'kept' })
  await finish(stage)
  for (const run of ['gone-a', 'gone-b']) {
    await db.query(
      `insert into leasehold.run_ledger (run_id, stage, submitted, done) values ($1, $2, 3, 0), ($1, $2, 0, 3)`,
      [run, stage],
    )
  }
  expect(await one('select f::text from leasehold.forget_runs(p_limit => 1) f')).toBe('(1,gone-a)')
  expect(await take('runs')).toEqual({ forgotten: 1 })
  const { rows } = await db.query('select distinct run_id from leasehold.run_ledger')
  expect(rows).toEqual([{ run_id: 'kept' }])
})

test('a table that autovacuum leaves alone is vacuumed', async () => {
  const stage = await addStage(db)
  await db.query('alter table leasehold.ready set (autovacuum_enabled = off)')
  await insertTasks(db, stage, 25_000)
  await db.query(
    `with ended as (delete from leasehold.ready where stage = $1 returning task_id)
    insert into leasehold.attempts (task_id, fence, ended_at, attempt, final, outcome)
    select task_id, nextval('leasehold.fences'), leasehold.clock(), 1, true, 'done' from ended`,
    [stage],
  )
  // The server's statistics are a moment behind, in PostgreSQL 14 after the vacuum too.
  await expect.poll(readyToVacuum, { timeout: 45_000 }).toBe(1)
  expect(await take('vacuum')).toMatchObject({ tables: expect.stringContaining('ready: ') as string })
  await expect.poll(readyToVacuum, { timeout: 45_000 }).toBe(0)
})
