/**
 * Schedules in SQL: what rows may say, what an edit does, and that a slot fires once or leaves a recorded skip, whoever
 * sends the plans. Plans are written by hand here; what makes them is packages/schedules.
 */
import {
  type SchedulePlan,
  advanceSchedules,
  disableSchedule,
  enableSchedule,
  listFirings,
  listSchedules,
  putSchedule,
  removeSchedule,
  scheduleFacts,
  schedulerTick,
} from '@leasehold/queue'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { addStage, problems, stateOf } from './scene.ts'
import { type DueSettings, identity, makeDueSchedule, planOf, scheduler } from './schedule-scene.ts'

let database: TestDatabase
let stage: string
let keys = 0
beforeAll(async () => {
  database = await createTestDatabase()
  stage = await addStage(database.pool)
})
afterAll(() => database.drop())

const dueSchedule = (settings: DueSettings = {}): Promise<{ name: string; slot: number }> =>
  makeDueSchedule(database, { stage, ...settings })
const firingPlan = (name: string): Promise<SchedulePlan> => planOf(database.pool, name)

async function tasksOf(name: string): Promise<{ id: string; payload: unknown; meta: { slot: string } }[]> {
  const { rows } = await database.pool.query(
    "select id::text, payload, meta from leasehold.tasks where meta ->> 'schedule' = $1 order by id",
    [name],
  )
  return rows
}

async function firingsOf(name: string): Promise<string[]> {
  const firings = await listFirings(database.pool, { schedule: name })
  return firings.map(({ outcome, reason }) => (reason === null ? outcome : `${outcome}: ${reason}`))
}

test('a firing makes one task with the slot in its meta, and moves the schedule on', async () => {
  const { name, slot } = await dueSchedule()
  const [carried] = await advanceSchedules(database.pool, [await firingPlan(name)], {
    scheduler: scheduler.id,
  })

  const [task, ...others] = await tasksOf(name)
  expect(others).toEqual([])
  expect(task!.meta.slot).toBe(new Date(slot).toISOString().replace('.000', ''))
  expect(await stateOf(database.pool, task!.id)).toBe('ready')
  expect(carried?.recorded).toMatchObject([{ schedule: name, outcome: 'fired', task_id: task!.id }])
  const [health] = await listSchedules(database.pool, { name })
  expect(health).toMatchObject({
    status: 'ok',
    lastTaskId: task!.id,
    lastTaskState: 'unfinished',
    lateByMs: 0,
  })
  expect(health?.nextSlot).toEqual(new Date(slot + 3_600_000))
  expect(await problems(database.pool)).toEqual([])
})

test('two schedulers with the same plan fire once, at the same time and after one another', async () => {
  const { name } = await dueSchedule()
  const plan = await firingPlan(name)
  const [one, other] = [await database.client(), await database.client()]
  await one.query('begin')
  await advanceSchedules(one, [plan], { scheduler: scheduler.id })
  expect(await advanceSchedules(other, [plan], { scheduler: scheduler.id })).toEqual([])
  await one.query('commit')
  expect(await advanceSchedules(other, [plan], { scheduler: scheduler.id })).toEqual([])
  expect(await tasksOf(name)).toHaveLength(1)
})

test('a transaction that fires and dies leaves nothing behind, and the slot fires later', async () => {
  const { name } = await dueSchedule({ key: `key-${(keys += 1)}` })
  const plan = await firingPlan(name)
  const doomed = await database.client()
  await doomed.query('begin')
  await advanceSchedules(doomed, [plan], { scheduler: scheduler.id })
  await doomed.query('rollback')
  expect([await tasksOf(name), await firingsOf(name)]).toEqual([[], []])

  await advanceSchedules(database.pool, [plan], { scheduler: scheduler.id })
  expect(await tasksOf(name)).toHaveLength(1)
  expect(await problems(database.pool)).toEqual([])
})

/** A slot is fired by one session; another one, which was told to fire it too, finds the row taken. */
async function firesTwice(): Promise<boolean> {
  const { name, slot } = await dueSchedule()
  const { facts } = (await scheduleFacts(database.pool, name))!
  const plan = { ...identity(facts), fire: [slot], next: facts.next_slot }
  await advanceSchedules(database.pool, [plan], 'command')
  await advanceSchedules(database.pool, [plan], 'command')
  return (await tasksOf(name)).length > 1
}

test('the primary key keeps a slot from firing twice; without it, it does', async () => {
  expect(await firesTwice()).toBe(false)
  await database.pool.query(`alter table leasehold.schedule_firings drop constraint slot_once_per_schedule;
    alter table leasehold.schedule_firings add column mutant bigint generated always as identity,
      add constraint slot_once_per_schedule primary key (schedule, slot, mutant)`)
  expect(await firesTwice()).toBe(true)
  await database.pool.query(`delete from leasehold.schedule_firings f using leasehold.schedule_firings g
      where f.schedule = g.schedule and f.slot = g.slot and f.mutant > g.mutant;
    alter table leasehold.schedule_firings drop constraint slot_once_per_schedule;
    alter table leasehold.schedule_firings drop column mutant,
      add constraint slot_once_per_schedule primary key (schedule, slot)`)
})

test('a plan for an older timing, for another slot or for the future is refused', async () => {
  const { name, slot } = await dueSchedule()
  const plan = await firingPlan(name)
  const refused = async (stale: SchedulePlan) =>
    advanceSchedules(database.pool, [stale], { scheduler: scheduler.id })
  expect(await refused({ ...plan, expected: slot - 1_000 })).toEqual([])
  expect(await refused({ ...plan, fire: [slot + 60_000] })).toEqual([])
  await database.pool.query("update leasehold.schedules set every = interval '2 seconds' where name = $1", [
    name,
  ])
  expect(await refused(plan)).toEqual([])
  expect(await tasksOf(name)).toEqual([])
})

test('while a task with its key is unfinished a slot is skipped, and the key is free afterwards', async () => {
  const key = `key-of-${(keys += 1)}`
  const { name } = await dueSchedule({ key })
  const { rows } = await database.pool.query<{ id: string }>(
    'insert into leasehold.tasks (stage, key) values ($1, $2) returning id::text',
    [stage, key],
  )
  await advanceSchedules(database.pool, [await firingPlan(name)], { scheduler: scheduler.id })
  expect(await firingsOf(name)).toEqual(['skipped: key_held'])
  await database.pool.query('select leasehold.cancel_task($1)', [rows[0]!.id])

  const { facts, now } = (await scheduleFacts(database.pool, name))!
  await database.advance(facts.next_slot! - now + 1)
  await advanceSchedules(database.pool, [await firingPlan(name)], { scheduler: scheduler.id })
  expect(await firingsOf(name)).toEqual(['fired', 'skipped: key_held'])
  expect(await problems(database.pool)).toEqual([])
})

test('an unknown stage is a recorded skip, a paused one keeps the task waiting and says so', async () => {
  const unknown = await dueSchedule({ stage: 'nobody_knows_it' })
  const paused = await dueSchedule({ stage: await addStage(database.pool) })
  await database.pool.query('select leasehold.pause_stage(stage) from leasehold.schedules where name = $1', [
    paused.name,
  ])
  const plans = [await firingPlan(unknown.name), await firingPlan(paused.name)]
  await advanceSchedules(database.pool, plans, { scheduler: scheduler.id })
  expect(await firingsOf(unknown.name)).toEqual(['skipped: unknown_stage'])
  expect(await firingsOf(paused.name)).toEqual(['fired: stage_paused'])
  const { rows } = await database.pool.query(
    'select kind, summary from leasehold.late_schedules() where subject = $1',
    [unknown.name],
  )
  expect(rows).toEqual([
    { kind: 'schedule_missed', summary: expect.stringContaining('nobody_knows_it, which is not known') },
  ])
})

test('a new timing begins now: a due slot is recorded as skipped, and the next one is computed anew', async () => {
  const { name } = await dueSchedule()
  const { facts } = (await scheduleFacts(database.pool, name))!
  expect(await putSchedule(database.pool, { name, stage, cron: '0 6 * * *', owner: 'sql' })).toBe('changed')
  const after = (await scheduleFacts(database.pool, name))!
  expect(after.facts).toMatchObject({ next_slot: null, cron: '0 6 * * *', revision: facts.revision + 1 })
  expect(after.facts.since).toBeGreaterThan(facts.next_slot!)
  expect(await firingsOf(name)).toEqual(['skipped: changed'])
})

test('what is not about time is changed without losing the next slot', async () => {
  const { name, slot } = await dueSchedule()
  await database.pool.query(
    `update leasehold.schedules set payload = '{"id": 9}', priority = 8 where name = $1`,
    [name],
  )
  expect((await scheduleFacts(database.pool, name))!.facts.next_slot).toBe(slot)
  expect(
    await putSchedule(database.pool, {
      name,
      stage,
      everyMs: 1_000,
      payload: { id: 9 },
      priority: 8,
      owner: 'sql',
    }),
  ).toBe('unchanged')
  await advanceSchedules(database.pool, [await firingPlan(name)], { scheduler: scheduler.id })
  expect((await tasksOf(name))[0]?.payload).toEqual({ id: 9 })
})

test('switching off records the due slot, switching on records the time between and starts from now', async () => {
  const { name } = await dueSchedule()
  expect(await disableSchedule(database.pool, name)).toBe(true)
  expect(await disableSchedule(database.pool, name)).toBe(false)
  await database.advance(3_600_000)
  expect(await enableSchedule(database.pool, name)).toBe(true)
  expect(await firingsOf(name)).toEqual(['skipped: disabled', 'skipped: disabled'])
  const { facts, now } = (await scheduleFacts(database.pool, name))!
  expect(facts.next_slot).toBeNull()
  expect(now - facts.since).toBeLessThan(60_000)
  expect(await enableSchedule(database.pool, 'nobody')).toBeNull()
})

test.each([
  ['neither cron nor every', 'null, null', /schedule_has_cron_or_every/],
  ['both', "'* * * * *', '1 hour'", /schedule_has_cron_or_every/],
  ['six fields', "'0 0 6 * * *', null", /schedule_cron_has_five_fields/],
  ['a sentence', "'every day at noon', null", /schedule_cron_has_five_fields/],
  ['half a second', "null, '0.5 seconds'", /schedule_every_is/],
  ['months', "null, '1 month'", /schedule_every_is_whole_seconds_without_months/],
])('a row with %s is refused', async (_what, values, constraint) => {
  const insert = `insert into leasehold.schedules (name, stage, cron, every) values ('bad', 's', ${values})`
  await expect(database.pool.query(insert)).rejects.toThrow(constraint)
})

test('an unknown zone is refused, and so is a new name', async () => {
  const { name } = await dueSchedule()
  const update = (sql: string) =>
    database.pool.query(`update leasehold.schedules set ${sql} where name = $1`, [name])
  await expect(update("zone = 'Europe/Lodnon'")).rejects.toThrow(/'Europe\/Lodnon' is no time zone/)
  await expect(update("name = 'another'")).rejects.toThrow(/cannot be renamed/)
})

test('a tick tells what is due and how long nothing will be, and never more than its limit', async () => {
  await database.pool.query('delete from leasehold.schedules')
  expect(await schedulerTick(database.pool, scheduler)).toMatchObject({ due: [], wait_ms: null })
  const due = [await dueSchedule(), await dueSchedule(), await dueSchedule()]
  expect((await schedulerTick(database.pool, scheduler, 2)).due).toHaveLength(2)
  for (const { name } of due)
    await advanceSchedules(database.pool, [await firingPlan(name)], { scheduler: scheduler.id })
  const { due: none, wait_ms: waitMs } = await schedulerTick(database.pool, scheduler)
  expect(none).toEqual([])
  expect(waitMs).toBeGreaterThan(3_000_000)
  expect(await removeSchedule(database.pool, due[0]!.name)).toBe(true)
  expect(await removeSchedule(database.pool, due[0]!.name)).toBe(false)
})

test('jitter is the same for the same slot, differs between slots, and stays in its bounds', async () => {
  const { rows } = await database.pool.query<{ ms: number }>(
    `select extract(epoch from leasehold.schedule_due('s', at, '10 minutes') - at)::float8 * 1000 as ms
    from generate_series(timestamptz '2027-01-01', timestamptz '2027-01-05', interval '1 hour') at`,
  )
  const jitters = rows.map(({ ms }) => ms)
  expect(new Set(jitters).size).toBeGreaterThan(90)
  expect(Math.min(...jitters)).toBeGreaterThanOrEqual(0)
  expect(Math.max(...jitters)).toBeLessThan(600_000)
  expect(Math.max(...jitters) - Math.min(...jitters)).toBeGreaterThan(400_000)
})

test('history is trimmed by age, and the latest row of a schedule stays', async () => {
  const { name } = await dueSchedule()
  await advanceSchedules(database.pool, [await firingPlan(name)], { scheduler: scheduler.id })
  const { facts, now } = (await scheduleFacts(database.pool, name))!
  await database.advance(facts.next_slot! - now + 1)
  await advanceSchedules(database.pool, [await firingPlan(name)], { scheduler: scheduler.id })
  await database.advance(40 * 86_400_000)
  await database.pool.query("select leasehold.trim_schedule_firings('31 days')")
  expect(await firingsOf(name)).toEqual(['fired'])
})

test('a scheduler needs leasehold_operator, and a submitter may not fire', async () => {
  const { name } = await dueSchedule()
  const plan = await firingPlan(name)
  const session = await database.client()
  await session.query('set role leasehold_submitter')
  await expect(advanceSchedules(session, [plan], 'command')).rejects.toThrow(/permission denied/)
  await session.query('set role leasehold_operator')
  await putSchedule(session, { name: 'by_operator', stage, cron: '0 6 * * *', owner: 'sql' })
  await schedulerTick(session, scheduler)
  expect(await advanceSchedules(session, [plan], { scheduler: scheduler.id })).toHaveLength(1)
  await expect(
    session.query("update leasehold.schedules set next_slot = null where name = 'by_operator'"),
  ).rejects.toThrow(/permission denied/)
  await session.query('set role leasehold_observer')
  expect(await listSchedules(session, { name: 'by_operator' })).toHaveLength(1)
  expect((await session.query('select from leasehold.late_schedules()')).rowCount).toBeGreaterThanOrEqual(0)
})

test('the command waits for nobody: a schedule that somebody edits is passed over', async () => {
  const { name } = await dueSchedule()
  const plan = await firingPlan(name)
  const editor = await database.client()
  await editor.query('begin')
  await editor.query("update leasehold.schedules set payload = '[]' where name = $1", [name])
  expect(await advanceSchedules(database.pool, [plan], { scheduler: scheduler.id })).toEqual([])
  await editor.query('rollback')
  expect(await advanceSchedules(database.pool, [plan], { scheduler: scheduler.id })).toHaveLength(1)
})

test('of a schedule that was removed no history is kept for ever', async () => {
  const { name } = await dueSchedule()
  await advanceSchedules(database.pool, [await firingPlan(name)], { scheduler: scheduler.id })
  await removeSchedule(database.pool, name)
  await database.pool.query("select leasehold.trim_schedule_firings('31 days')")
  expect((await firingsOf(name)).length).toBeGreaterThan(0)
  await database.advance(40 * 86_400_000)
  await database.pool.query("select leasehold.trim_schedule_firings('31 days')")
  expect(await firingsOf(name)).toEqual([])
})
