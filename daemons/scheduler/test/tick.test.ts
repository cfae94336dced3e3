/**
 * Turns of a scheduler against the database: catch-up after an outage, rows that cannot fire, clocks that jump, firing
 * by hand. The clock is the test database's.
 */
import { type FiringRecord, listFirings, listSchedules, putSchedule, scheduleFacts } from '@leasehold/queue'
import { fireSchedule } from '@leasehold/schedules'
import { beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { tick } from '../src/index.ts'

const hourMs = 3_600_000
const scheduler = {
  id: '00000000-0000-4000-8000-000000000002',
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
  // No full hour, and no full minute, comes by in the middle of a test by itself.
  await toNextHour(30 * 60_000 + 2_000)
})

/** Turns until nothing is due. */
async function settle(): Promise<void> {
  while ((await tick(db.pool, scheduler)).due > 0);
}

/** Moves the clock to `ms` after the next full hour; answers that hour. */
async function toNextHour(ms: number): Promise<number> {
  const { rows } = await db.pool.query<{ now: string }>('select leasehold.epoch_ms(leasehold.clock()) as now')
  const now = Number(rows[0]!.now)
  const hour = Math.ceil((now + 1) / hourMs) * hourMs
  await db.advance(hour - now + ms)
  return hour
}

async function hourly(name: string, more: object = {}): Promise<void> {
  await putSchedule(db.pool, { name, stage: 'work', cron: '0 * * * *', owner: 'sql', ...more })
}

const told = (firings: FiringRecord[]) =>
  firings.map(({ slot, outcome, slots, reason }) => {
    const hour = slot.toISOString().slice(11, 13)
    return `${hour} ${outcome}${slots === 1 ? '' : ` ${slots}`}${reason === null ? '' : ` ${reason}`}`
  })

test.each([
  ['skip', ['13 fired', '10 skipped 3 missed']],
  ['one', ['13 fired', '12 fired', '10 skipped 2 missed']],
  ['all', ['13 fired', '12 fired', '11 fired', '10 fired']],
] as const)('after an outage of three slots, catch-up %s does what it says', async (catchUp, expected) => {
  const first = await toNextHour(-30 * 60_000)
  await db.advance((10 - new Date(first).getUTCHours() + 24) * hourMs)
  await hourly('report', { catchUp })
  await settle()
  await db.advance(3 * hourMs)
  await settle()
  await toNextHour(1_000)
  await settle()
  expect(told(await listFirings(db.pool, { schedule: 'report' }))).toEqual(expected)
})

test('a slot that is only a little late fires, whatever the policy, and missing one restart costs nothing', async () => {
  await toNextHour(1_000)
  for (const catchUp of ['skip', 'one', 'all'] as const) await hourly(catchUp, { catchUp })
  await settle()
  await toNextHour(90_000)
  await settle()
  expect(new Set(told(await listFirings(db.pool)).map((text) => text.slice(3)))).toEqual(new Set(['fired']))
})

test('a year of missed minutes is one row, and a thousand missed slots that are all wanted come in batches', async () => {
  await putSchedule(db.pool, {
    name: 'minutely',
    stage: 'work',
    cron: '* * * * *',
    catchUp: 'skip',
    owner: 'sql',
  })
  await putSchedule(db.pool, { name: 'wanted', stage: 'work', everyMs: 60_000, catchUp: 'all', owner: 'sql' })
  await settle()
  await db.advance(1_000 * 60_000)
  const { carried } = await tick(db.pool, scheduler)
  const counts = carried.map(({ schedule, recorded }) => `${schedule} ${recorded.length}`).toSorted()
  expect(counts).toEqual(['minutely 1', 'wanted 100'])
  await settle()
  expect(await listFirings(db.pool, { schedule: 'wanted', limit: 10_000 })).toHaveLength(1_000)
  await db.advance(365 * 24 * hourMs)
  await db.pool.query("delete from leasehold.schedules where name = 'wanted'")
  await settle()
  const skipped = (await listFirings(db.pool, { schedule: 'minutely' })).filter(
    ({ outcome }) => outcome === 'skipped',
  )
  expect(skipped.filter(({ slots }) => slots === null)).toHaveLength(1)
  expect(skipped).toHaveLength(2)
})

test('a malformed expression stops its own schedule alone, tells why, and is healed by an edit', async () => {
  await hourly('good')
  await db.pool.query(
    "insert into leasehold.schedules (name, stage, cron) values ('bad', 'work', '99 9 * * *')",
  )
  const { problems } = await tick(db.pool, scheduler)
  expect(problems).toEqual([{ schedule: 'bad', problem: expect.stringContaining('99') }])
  expect((await tick(db.pool, scheduler)).due).toBe(0)
  await toNextHour(0)
  await settle()
  expect(await listFirings(db.pool, { schedule: 'good' })).toHaveLength(1)
  expect((await listSchedules(db.pool, { name: 'bad' }))[0]).toMatchObject({
    status: 'broken',
    problem: expect.stringContaining("'99 9 * * *' cannot be read"),
  })
  await db.pool.query("update leasehold.schedules set cron = '9 9 * * *' where name = 'bad'")
  await settle()
  expect((await listSchedules(db.pool, { name: 'bad' }))[0]).toMatchObject({ status: 'ok', problem: null })
})

test('a key that an open transaction has taken holds up its own schedule only', async () => {
  await toNextHour(1_000)
  await hourly('held', { key: 'k' })
  await hourly('free')
  await settle()
  const submitter = await db.client()
  await submitter.query("begin; insert into leasehold.tasks (stage, key) values ('work', 'k')")
  await toNextHour(1_000)
  expect(await tick(db.pool, scheduler)).toMatchObject({
    problems: [],
    held: [{ schedule: 'held', problem: expect.stringContaining('another transaction holds') }],
  })
  await settle()
  const outcomes = async (schedule: string): Promise<string[]> =>
    (await listFirings(db.pool, { schedule })).map(({ outcome }) => outcome)
  expect([await outcomes('free'), await outcomes('held')]).toEqual([['fired'], []])
  const problem = async (): Promise<string | null> =>
    (await listSchedules(db.pool, { name: 'held' }))[0]!.problem
  expect(await problem()).toBeNull()
  // A lock passes, so it is a problem only when it has not after five minutes.
  await db.advance(4 * 60_000)
  await settle()
  expect(await problem()).toBeNull()
  await db.advance(2 * 60_000)
  await settle()
  expect(await problem()).toContain('another transaction holds')
  await submitter.query('rollback')
  await db.advance(70_000) // set aside for a minute
  await settle()
  expect([await outcomes('held'), await problem()]).toEqual([['fired'], null])
})

test('a turn ends in its time however many schedules are held, and each turn gets to others', async () => {
  await toNextHour(1_000)
  const names = ['a', 'b', 'c']
  for (const name of names) await hourly(name, { key: name })
  await settle()
  const submitter = await db.client()
  await submitter.query('begin')
  for (const name of names.slice(0, 2))
    await submitter.query("insert into leasehold.tasks (stage, key) values ('work', $1)", [name])
  await toNextHour(1_000)
  const turns = []
  for (let due = 1; due > 0;) {
    const turn = await tick(db.pool, scheduler, 0) // no time at all: one of them in each turn
    due = turn.due
    turns.push([turn.due, turn.held.length + turn.carried.flatMap((one) => one.recorded).length])
  }
  expect(turns).toEqual([[3, 1], [2, 1], [1, 1], [0, 0]]) // prettier-ignore
  expect(await listFirings(db.pool)).toMatchObject([{ schedule: 'c', outcome: 'fired' }])
  await submitter.query('rollback')
  await db.advance(16_000)
  await settle()
  expect((await listFirings(db.pool)).map(({ schedule }) => schedule).toSorted()).toEqual(names)
})

test('a schedule whose task the database refuses is set aside with the reason; its neighbours fire', async () => {
  await hourly('good')
  await hourly('poor', { payload: { poison: true } })
  await settle()
  await db.pool.query(
    "alter table leasehold.tasks add constraint no_poison check (not payload ? 'poison') not valid",
  )
  await toNextHour(1_000)
  const { problems } = await tick(db.pool, scheduler)
  expect(problems).toEqual([{ schedule: 'poor', problem: expect.stringContaining('no_poison') }])
  expect(await listFirings(db.pool, { schedule: 'good' })).toHaveLength(1)
  expect((await tick(db.pool, scheduler)).due).toBe(0)
  await db.pool.query('alter table leasehold.tasks drop constraint no_poison')
  await db.advance(60_000)
  await settle()
  expect(await listFirings(db.pool, { schedule: 'poor' })).toMatchObject([{ outcome: 'fired' }])
})

test('a clock that was far ahead and comes back leaves no schedule waiting for that future', async () => {
  await hourly('report')
  await settle()
  await db.advance(400 * 24 * hourMs)
  await settle()
  await db.advance(-400 * 24 * hourMs)
  await settle()
  const { facts, now } = (await scheduleFacts(db.pool, 'report'))!
  expect(facts.next_slot! - now).toBeLessThanOrEqual(hourMs)
  expect(facts.next_slot! - now).toBeGreaterThan(0)
})

test('a schedule that is edited in time zone or expression fires nothing that has passed, and misses nothing after', async () => {
  await toNextHour(30 * 60_000)
  await putSchedule(db.pool, { name: 'report', stage: 'work', cron: '0 0 1 1 *', owner: 'sql' })
  await settle()
  await putSchedule(db.pool, {
    name: 'report',
    stage: 'work',
    cron: '*/15 * * * *',
    zone: 'Asia/Kolkata',
    owner: 'sql',
  })
  await settle()
  expect(await listFirings(db.pool)).toEqual([])
  await db.advance(15 * 60_000)
  await settle()
  expect(await listFirings(db.pool)).toMatchObject([{ outcome: 'fired', slots: 1 }])
})

test('firing by hand and by schedulers, at once and again, is one task for one slot', async () => {
  await hourly('report')
  await settle()
  const hour = await toNextHour(5_000)
  const answers = await Promise.all([
    fireSchedule(db.pool, 'report'),
    fireSchedule(db.pool, 'report'),
    tick(db.pool, scheduler),
  ])
  await settle()
  const again = await fireSchedule(db.pool, 'report', new Date(hour))
  expect(again).toMatchObject({ result: 'before', taskId: expect.any(String) })
  for (const answer of answers.slice(0, 2)) expect(answer).toMatchObject({ slot: new Date(hour) })
  expect(await listFirings(db.pool)).toHaveLength(1)
  const { rows } = await db.pool.query('select from leasehold.tasks')
  expect(rows).toHaveLength(1)
})

test('without any scheduler, firing by hand alone moves a schedule on and catches up by its policy', async () => {
  await toNextHour(-30 * 60_000)
  await hourly('report', { catchUp: 'one' })
  expect(await fireSchedule(db.pool, 'report', 'extra')).toMatchObject({ result: 'fired', reason: 'extra' })
  await toNextHour(1_000)
  expect(await fireSchedule(db.pool, 'report')).toMatchObject({ result: 'fired' })
  await db.advance(3 * hourMs)
  expect(await fireSchedule(db.pool, 'report')).toMatchObject({ result: 'fired' })
  const outcomes = (await listFirings(db.pool)).map(({ outcome, slots }) => `${outcome} ${slots}`)
  expect(outcomes.toSorted()).toEqual(['fired 1', 'fired 1', 'fired 1', 'skipped 2'])
  expect(await fireSchedule(db.pool, 'nobody')).toBeNull()
})

test('only a slot can be fired: not the future, not a moment between', async () => {
  await hourly('report')
  const hour = await toNextHour(1_000)
  await expect(fireSchedule(db.pool, 'report', new Date(hour + hourMs))).rejects.toThrow(/lies ahead/)
  await expect(fireSchedule(db.pool, 'report', new Date(hour - 60_000))).rejects.toThrow(
    /is no slot of 'report'; those around it/,
  )
  await expect(fireSchedule(db.pool, 'report', new Date(hour - 40 * 24 * hourMs))).rejects.toThrow(/30 days/)
})

test('a timer that comes before the slot by the database’s clock waits for it, and one that comes after it does not', async () => {
  await hourly('report')
  await settle()
  await toNextHour(1_000)
  await settle()
  // From here on the clock stands still: whoever waits for a slot waits until somebody moves it.
  await db.pool
    .query(`do $$ begin execute format('create or replace function leasehold.clock() returns timestamptz
    language sql volatile as %L', format('select timestamptz %L + ahead from leasehold_test.clock', clock_timestamp())); end $$`)
  const waited: Date[] = []
  const fire = () =>
    fireSchedule(db.pool, 'report', 'now', (slot, waitMs) => {
      waited.push(slot)
      void db.advance(waitMs)
    })
  expect(await fire()).toMatchObject({ result: 'before' })
  expect(waited).toEqual([])
  const hour = new Date(await toNextHour(-500))
  expect(await fire()).toMatchObject({ result: 'fired', slot: hour })
  expect(new Set(waited.map(Number))).toEqual(new Set([hour.getTime()]))
  // Of a slot each minute the one that has just passed is meant, though the next one is not far.
  waited.length = 0
  await putSchedule(db.pool, { name: 'often', stage: 'work', everyMs: 60_000, owner: 'sql' })
  await settle()
  await toNextHour(10_000)
  await settle()
  expect(await fireSchedule(db.pool, 'often', 'now', (slot) => waited.push(slot))).toMatchObject({
    result: 'before',
  })
  expect(waited).toEqual([])
})

test('extra firings that ask in the same moment are one task each', async () => {
  await hourly('report')
  await db.pool.query(`create or replace function leasehold.clock() returns timestamptz
    language sql volatile as $$ select pg_catalog.to_timestamp(floor(extract(epoch from clock_timestamp()) * 5) / 5) $$`)
  const answers = await Promise.all([1, 2, 3].map(() => fireSchedule(db.pool, 'report', 'extra')))
  expect(new Set(answers.map((answer) => answer!.taskId)).size).toBe(3)
  expect(answers).toMatchObject([1, 2, 3].map(() => ({ result: 'fired', reason: 'extra' })))
})
