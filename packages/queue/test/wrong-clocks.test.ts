/**
 * A clock that is set a week ahead and back again: what it wrote meanwhile must neither silence anything afterwards nor
 * cost history. Schedules are daemons/scheduler/test, alerts daemons/heartbeat-monitor/test, in files of this name.
 */
import {
  type Db,
  databaseHealth,
  duties,
  listHousekeeping,
  registerDuties,
  retentionPlan,
  setRetention,
  takeTurn,
} from '@leasehold/queue'
import { beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { addStage, addWorker, claimOne, insertTask, problems, settleDone, stateOf } from './scene.ts'

const minute = 60_000
const day = 86_400_000
const week = 7 * day

let database: TestDatabase
let db: Db
beforeEach(async ({ onTestFinished }) => {
  database = await createTestDatabase()
  db = database.pool
  // A slow moment would be a gap between two looks.
  await database.stopClock()
  onTestFinished(() => database.drop())
})

async function one<T>(sql: string, ...values: unknown[]): Promise<T> {
  const { rows } = await db.query<{ answer: T }>(`select (${sql}) as answer`, values)
  return rows[0]!.answer
}

async function incidents(): Promise<number> {
  return one('select count(*)::integer from leasehold.incidents')
}

/** A look of one of two monitors, as far as time is concerned. */
async function look(monitor: 1 | 2 = 1, everyMs = 10_000): Promise<void> {
  const id = `00000000-0000-4000-8000-00000000000${monitor}`
  await db.query(`select leasehold.monitor_beat($1, 'crane.example', 1, '1', $2)`, [id, everyMs])
  await db.query(`select leasehold.monitor_tick('1 minute', '1 minute')`)
}

async function take(name: string): Promise<Record<string, unknown> | null> {
  return takeTurn(
    db,
    duties.find((duty) => duty.name === name)!,
    'test',
  )
}

test('a worker that died while the clock was ahead is found dead one grace and one TTL after it was set back', async () => {
  const stage = await addStage(db)
  await look()
  await database.advance(week)
  await look()
  const worker = await addWorker(db, [stage], { ttl: '30 seconds' })
  const task = await insertTask(db, stage)
  expect((await claimOne(db, worker, stage)).taskId).toBe(task)
  await look()
  await database.advance(-week)
  await look()
  expect(await stateOf(db, task)).toBe('running')
  for (let n = 0; n < 5; n++) {
    await database.advance(10_000)
    await look()
  }
  expect(await stateOf(db, task)).toBe('ready')
  expect(await problems(db)).toEqual([])
})

test('the silence of monitors counts from when the clock was set back, also for one that ticks no more', async () => {
  await database.advance(week)
  await look(1)
  await look(2)
  await database.advance(-week)
  // Nobody has looked since: what was written in the future is no look.
  expect(await one('leasehold.monitor_silence() is null')).toBe(true)
  await look(2)
  for (let n = 0; n < 5; n++) {
    await database.advance(10_000)
    await look(2)
  }
  expect(
    await one(
      `select count(*)::integer from leasehold.incidents where kind = 'monitor_silent' and resolved_at is null`,
    ),
  ).toBe(1)
})

test('a clock that goes a week ahead drops no range, no row and no log until a day has passed by it', async () => {
  const stage = await addStage(db)
  await setRetention(db, { keepTasksMs: minute, keepLogsMs: null, keepIncidentsMs: day, keepWorkersMs: day })
  await db.query('select leasehold.ensure_partitions()')
  const task = await insertTask(db, stage)
  const worker = await addWorker(db, [stage])
  await settleDone(db, worker, [await claimOne(db, worker, stage)])
  await db.query('select leasehold.leave($1)', [worker])
  await db.query('select leasehold.rotate_partitions()')
  await db.query(`select leasehold.open_incident('backlog_old', 'x', 'x')`)
  await look()

  await database.advance(week)
  // Before any monitor has looked by this clock, and after.
  for (const looks of [0, 1]) {
    if (looks > 0) await look()
    expect(await take('retention')).toMatchObject({
      rangesDropped: 0,
      stays: expect.stringContaining('clock'),
    })
    await take('tidy')
    expect(await stateOf(db, task)).toBe('done')
    expect(await incidents()).toBe(1)
    expect((await retentionPlan(db))[0]).toMatchObject({
      action: 'keep',
      reason: expect.stringContaining('clock'),
    })
  }

  // It was right after all: a day later everything goes as usual.
  for (let hours = 0; hours < 25; hours++) {
    await database.advance(60 * minute)
    await look()
  }
  expect((await retentionPlan(db))[0]).toMatchObject({ action: 'drop' })
  expect(await take('retention')).toMatchObject({ rangesDropped: 1 })
  await take('tidy')
  expect(await incidents()).toBe(0)
})

test('set back, the clock keeps nothing from going that is old enough by it', async () => {
  const stage = await addStage(db)
  await setRetention(db, { keepTasksMs: minute })
  await db.query('select leasehold.ensure_partitions()')
  await insertTask(db, stage)
  const worker = await addWorker(db, [stage])
  await settleDone(db, worker, [await claimOne(db, worker, stage)])
  await db.query('select leasehold.rotate_partitions()')
  await look()
  await database.advance(week)
  await look()
  await database.advance(-week)
  await look()
  await database.advance(2 * minute)
  expect(await take('retention')).toMatchObject({ rangesDropped: 1, rangesStay: 0 })
})

test('a duty that was under way in the future is taken over, and one that succeeded there is missed in time', async () => {
  await registerDuties(db)
  await look()
  await database.advance(week)
  await look()
  expect(await take('vacuum')).not.toBeNull()
  await one(`leasehold.begin_duty('runs', '0 * * * *', '1 hour', 'somebody who died')`)
  await database.advance(-week)
  await look()
  expect(await take('runs')).not.toBeNull()
  // A monitor looks without a pause, and the duties do not come.
  for (let minutes = 0; minutes < 10; minutes++) {
    await database.advance(minute)
    await look(1, minute)
  }
  const overdue = (await listHousekeeping(db)).filter((duty) => duty.overdue).map(({ duty }) => duty)
  expect(overdue).toContain('vacuum')
})

test('depths that were counted in the future do not stop the counting', async () => {
  const stage = await addStage(db)
  await database.advance(week)
  expect(await take('depths')).toEqual({ sampled: 1 })
  await database.advance(-week)
  await insertTask(db, stage)
  expect(await take('depths')).toEqual({ sampled: 1 })
  expect(
    await one(
      'select ready::integer from leasehold.stage_samples where stage = $1 order by at desc limit 1',
      stage,
    ),
  ).toBe(1)
  expect((await databaseHealth(db)).find(({ name }) => name === 'monitor')).toBeDefined()
})

test('a turn of tidying removes all that is old, however much it is', async () => {
  // Of a schedule that there is, the latest stays.
  await db.query("insert into leasehold.schedules (name, stage, every) values ('nightly', 'none', '1 day')")
  await db.query(
    `insert into leasehold.schedule_firings (schedule, slot, outcome, reason, recorded_at, recorded_by)
     select 'nightly', leasehold.clock() - interval '200 days' + n * interval '1 second', 'skipped', 'missed',
       leasehold.clock() - interval '200 days', 'test' from generate_series(1, 25000) n`,
  )
  expect(await take('tidy')).toEqual({ schedule_firings: 24_999 })
})

test('a range that a vacuum works on stays, with the reason, and nobody waits behind it', async () => {
  const stage = await addStage(db)
  await setRetention(db, { keepTasksMs: minute })
  await db.query('select leasehold.ensure_partitions()')
  await insertTask(db, stage)
  const worker = await addWorker(db, [stage])
  await settleDone(db, worker, [await claimOne(db, worker, stage)])
  const first = await one<string>('select min(first_id) from leasehold.partitions')
  await db.query('select leasehold.rotate_partitions()')
  await database.advance(2 * minute)
  const vacuum = await database.client()
  await vacuum.query('begin')
  await vacuum.query(`lock table leasehold.tasks_${first} in share update exclusive mode`)
  expect(await take('retention')).toMatchObject({
    rangesDropped: 0,
    stays: expect.stringMatching(/vacuum .*of leasehold\.tasks_\d+ goes on \(pid \d+\)/),
  })
  await vacuum.query('rollback')
  expect(await take('retention')).toMatchObject({ rangesDropped: 1 })
})
