/**
 * What the monitor is told of schedules: late, impossible, unplanned, and that nobody fires.
 */
import { advanceSchedules, listSchedules, putSchedule, scheduleFacts, schedulerTick } from '@leasehold/queue'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { addStage } from './scene.ts'
import { identity, makeDueSchedule, planOf, scheduler } from './schedule-scene.ts'

let database: TestDatabase
let stage: string
beforeAll(async () => {
  database = await createTestDatabase()
  stage = await addStage(database.pool)
})
afterAll(() => database.drop())
beforeEach(() => database.pool.query('delete from leasehold.schedules'))

async function told(): Promise<string[]> {
  const { rows } = await database.pool.query<{ subject: string; problem: string }>(
    "select subject, details ->> 'problem' as problem from leasehold.late_schedules()",
  )
  return rows.map(({ subject, problem }) => `${subject}: ${problem}`).toSorted()
}

test('the monitor is told of a late schedule, of one that cannot fire, and of nobody who fires', async () => {
  const late = await makeDueSchedule(database, { stage })
  const broken = await makeDueSchedule(database, { stage })
  const { facts } = (await scheduleFacts(database.pool, broken.name))!
  const problem = { ...identity(facts), fire: [], next: facts.next_slot, problem: 'it is malformed' }
  await advanceSchedules(database.pool, [problem], { scheduler: scheduler.id })
  await schedulerTick(database.pool, scheduler)
  expect(await told()).toEqual([`${broken.name}: cannot_fire`])

  await database.advance(6 * 60_000)
  expect(await told()).toEqual([`${broken.name}: cannot_fire`, 'scheduler: no_scheduler'])
  await schedulerTick(database.pool, scheduler)
  expect(await told()).toEqual([`${late.name}: late`, `${broken.name}: cannot_fire`].toSorted())
  const [health] = await listSchedules(database.pool, { name: late.name })
  expect(health?.status).toBe('late')
  await advanceSchedules(database.pool, [await planOf(database.pool, late.name)], { scheduler: scheduler.id })
  expect(await told()).toEqual([`${broken.name}: cannot_fire`])
})

test('where timers fire, no scheduler is missed: a slot that passes unfired is, and one that nobody has computed after a day', async () => {
  const { pool } = database
  await pool.query('update leasehold.schedulers set stopped_at = leasehold.clock()')
  const timed = { stage, everyMs: 86_400_000, owner: 'manifest', firedBy: 'timer' } as const
  await putSchedule(pool, { name: 'by_timer', ...timed })
  await database.advance(10 * 60_000)
  expect(await told()).toEqual([])
  expect((await listSchedules(pool, { name: 'by_timer' }))[0]).toMatchObject({
    firedBy: 'timer',
    status: 'not planned yet',
  })
  await database.advance(25 * 3_600_000)
  expect(await told()).toEqual(['by_timer: unplanned'])

  // Planned, and its slot passes.
  await pool.query("update leasehold.schedules set every = '2 days' where name = 'by_timer'")
  const { facts, now } = (await scheduleFacts(pool, 'by_timer'))!
  await advanceSchedules(pool, [{ ...identity(facts), fire: [], next: now + 60_000 }], 'command')
  await database.advance(2 * 60_000)
  expect(await told()).toEqual([])
  await database.advance(5 * 60_000)
  expect(await told()).toEqual(['by_timer: late'])

  await putSchedule(pool, { name: 'by_timer', ...timed, firedBy: 'scheduler' })
  await database.advance(10 * 60_000)
  expect(await told()).toEqual(['scheduler: no_scheduler'])
  await expect(pool.query("update leasehold.schedules set fired_by = 'nobody'")).rejects.toThrow(
    /schedule_fired_by_is_known/,
  )
})
