/**
 * Schedules under a database clock that goes a week ahead and back, and slots that go by without ever being computed:
 * no schedule waits for the clock to catch up, and no slot is lost without a row that says so.
 */
import { disableSchedule, listFirings, listSchedules, putSchedule, removeSchedule } from '@leasehold/queue'
import { beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { tick } from '../src/index.ts'

const minute = 60_000
const hour = 60 * minute
const week = 7 * 24 * hour
const scheduler = {
  id: '00000000-0000-4000-8000-000000000003',
  host: 'crane.example',
  pid: 1,
  version: '1',
  pollMs: 1_000,
}

let db: TestDatabase
beforeEach(async ({ onTestFinished }) => {
  db = await createTestDatabase()
  onTestFinished(() => db.drop())
  await db.pool.query("insert into leasehold.stages (name) values ('work')")
})

async function settle(): Promise<void> {
  while ((await tick(db.pool, scheduler)).due > 0);
}

/** Moves the clock to half past some hour, so that no slot is near. */
async function toHalfPast(): Promise<void> {
  const { rows } = await db.pool.query<{ now: number }>(
    'select leasehold.epoch_ms(leasehold.clock())::float8 as now',
  )
  await db.advance(hour + hour / 2 - (rows[0]!.now % hour))
}

async function hourly(name: string, more: object = {}): Promise<void> {
  await putSchedule(db.pool, { name, stage: 'work', cron: '0 * * * *', owner: 'sql', ...more })
}

/** How many hours after the present the schedule is due next. */
async function dueInHours(name: string): Promise<number> {
  const { rows } = await db.pool.query<{ h: number }>(
    `select extract(epoch from next_at - leasehold.clock())::float8 / 3600 as h from leasehold.schedules where name = $1`,
    [name],
  )
  return rows[0]!.h
}

async function outcomes(name: string): Promise<string[]> {
  const { rows } = await db.pool.query<{ told: string }>(
    `select outcome || coalesce(' ' || reason, '') as told from leasehold.schedule_firings where schedule = $1
     and slot between leasehold.clock() - interval '90 minutes' and leasehold.clock() + interval '3 hours' order by slot`,
    [name],
  )
  return rows.map(({ told }) => told)
}

test('what was planned, made or set aside while the clock was ahead goes on at once when it is back', async () => {
  await toHalfPast()
  await hourly('before')
  await settle()
  await db.advance(week)
  await settle()
  await hourly('made')
  await hourly('edited')
  await settle()
  await db.pool.query(
    `update leasehold.schedules set problem = 'made up', problem_at = leasehold.clock(), next_slot = null where name = 'edited'`,
  )
  await hourly('uncomputed')
  await db.advance(-week)
  await settle()
  for (const name of ['before', 'made', 'edited', 'uncomputed'])
    expect(await dueInHours(name), name).toBeLessThanOrEqual(1)
})

test('a slot that a clock ahead of time skipped fires when its time comes, and what it fired is not fired again', async () => {
  await toHalfPast()
  await hourly('latest', { catchUp: 'one' })
  await hourly('every', { catchUp: 'all' })
  await settle()
  await db.advance(3 * hour)
  await settle()
  await db.advance(-3 * hour)
  expect(await outcomes('latest')).toEqual(['skipped missed', 'fired'])
  expect(await outcomes('every')).toEqual(['fired', 'fired', 'fired'])
  await settle()
  await db.advance(hour)
  await settle()
  expect(await outcomes('latest')).toEqual(['fired', 'fired'])
  expect(await outcomes('every')).toEqual(['fired', 'fired', 'fired'])
  const { rows } = await db.pool.query('select count(*)::integer as n from leasehold.tasks')
  expect(rows).toEqual([{ n: 5 }])
})

test.each(['disabled', 'changed', 'deleted'])(
  'slots that nobody computed before the schedule was %s leave a recorded skip',
  async (reason) => {
    await toHalfPast()
    await hourly('clockwork')
    await putSchedule(db.pool, { name: 'interval', stage: 'work', everyMs: hour, owner: 'sql' })
    await db.advance(hour)
    for (const name of ['clockwork', 'interval']) {
      if (reason === 'disabled') await disableSchedule(db.pool, name)
      else if (reason === 'deleted') await removeSchedule(db.pool, name)
      else await db.pool.query(`update leasehold.schedules set jitter = '1 s' where name = $1`, [name])
      expect(await listFirings(db.pool, { schedule: name })).toMatchObject([
        { outcome: 'skipped', reason, slots: null, recordedBy: 'edit' },
      ])
    }
  },
)

test('an edit before any slot can have come due leaves none', async () => {
  await toHalfPast()
  await putSchedule(db.pool, { name: 'interval', stage: 'work', everyMs: hour, owner: 'sql' })
  await db.pool.query(`update leasehold.schedules set jitter = '1 s'`)
  await removeSchedule(db.pool, 'interval')
  expect(await listFirings(db.pool, { schedule: 'interval' })).toEqual([])
  expect(await listSchedules(db.pool)).toEqual([])
})

test('a due slot of a schedule that is removed leaves a recorded skip', async () => {
  await toHalfPast()
  await hourly('report')
  await settle()
  await db.advance(hour)
  await removeSchedule(db.pool, 'report')
  expect(await listFirings(db.pool, { schedule: 'report' })).toMatchObject([
    { outcome: 'skipped', reason: 'deleted' },
  ])
})
