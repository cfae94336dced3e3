/**
 * One day on a simulated clock: a thousand schedules, two schedulers, one of them killed every minute. Afterwards every
 * slot has fired once and none is missing, by a computation that shares nothing with the scheduler's.
 *
 * A kill is one of four: before the firing is sent, in the middle of its transaction, while the statement runs
 * (pg_terminate_backend at a moment of chance), or after the commit and before the answer was read.
 */
import { randomUUID } from 'node:crypto'
import { type Db, type SchedulerIntroduction } from '@leasehold/queue'
import type { Client, QueryResult, QueryResultRow } from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { tick } from '../src/index.ts'

const minuteMs = 60_000
const schedules = 1_000
const minutes = 24 * 60

let db: TestDatabase
beforeAll(async () => {
  db = await createTestDatabase({ max: 5 })
  // A day on which no clock of these zones changes: what is expected is written down without such rules.
  await db.pool.query(
    "update leasehold_test.clock set ahead = timestamptz '2027-01-12 00:00:10Z' - clock_timestamp()",
  )
})
afterAll(() => db.drop())

/** Numbers that repeat with their seed (mulberry32). */
function seeded(): () => number {
  let state = Number(process.env['LEASEHOLD_TEST_SEED'] ?? Date.now() % 1_000_000_007)
  console.log(`a day of schedules: LEASEHOLD_TEST_SEED=${state}`)
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}

type Death = 'before' | 'inside' | 'while' | 'after'
const deaths: readonly Death[] = ['before', 'inside', 'inside', 'inside', 'after', 'after', 'while']

class Killed extends Error {}

/** A scheduler process, which dies when it is told how. */
class Incarnation implements Db {
  private readonly client: Client
  private readonly random: () => number
  readonly introduction: SchedulerIntroduction = {
    id: randomUUID(),
    host: 'crane.example',
    pid: 1,
    version: 'test',
    pollMs: 5_000,
  }
  death: Death | null = null

  private constructor(random: () => number, client: Client) {
    this.random = random
    this.client = client
  }

  static async start(random: () => number): Promise<Incarnation> {
    return new Incarnation(random, await db.client())
  }

  /** The process that is started after this one: on a connection of its own, where this one's was cut. */
  async successor(): Promise<Incarnation> {
    if (this.death !== 'while') return new Incarnation(this.random, this.client)
    await this.end()
    return Incarnation.start(this.random)
  }

  query<R extends QueryResultRow>(text: string, values?: unknown[]): Promise<QueryResult<R>> {
    const fires = text.includes('advance_schedules')
    return fires && this.death !== null ? this.die(text, values) : this.client.query<R>(text, values)
  }

  private async die(text: string, values?: unknown[]): Promise<never> {
    if (this.death === 'while') {
      const { rows } = await this.client.query<{ pid: number }>('select pg_backend_pid() as pid')
      const dying = this.client.query(text, values).catch(() => {})
      for (let pause = Math.floor(this.random() * 20); pause > 0; pause -= 1) await new Promise(setImmediate)
      await db.pool.query('select pg_terminate_backend($1)', [rows[0]!.pid])
      await dying
    } else if (this.death === 'inside') {
      // What the server does when it finds the connection of a killed process gone.
      await this.client.query('begin')
      await this.client.query(text, values)
      await this.client.query('rollback')
    } else if (this.death === 'after') {
      await this.client.query(text, values)
    }
    throw new Killed()
  }

  end(): Promise<void> {
    return this.client.end().catch(() => {})
  }
}

/** Turns until all that was due is carried out; true when it was killed on the way. */
async function turns(scheduler: Incarnation): Promise<boolean> {
  try {
    for (;;) {
      const { due, moved } = await tick(scheduler, scheduler.introduction)
      if (due === moved && due < 500) return false
    }
  } catch (error) {
    if (error instanceof Killed) return true
    throw error
  }
}

/** Mixed kinds: by the minute, by quarters and hours, daily in several zones, intervals with anchors. */
async function makeSchedules(): Promise<void> {
  await db.pool.query("insert into leasehold.stages (name) select 'stage_' || n from generate_series(0, 9) n")
  await db.pool.query(
    `insert into leasehold.schedules (name, stage, cron, every, anchor, zone, jitter, catch_up)
    select 's' || n, 'stage_' || n % 10,
      case when n % 10 between 5 and 8 then null
        when n < 10 then '* * * * *'
        when n % 10 = 0 then n % 60 || ',' || (n + 30) % 60 || ' * * * *'
        when n % 10 in (1, 2) then n % 60 || ' * * * *'
        when n % 10 = 3 then n % 60 || ' ' || n % 24 || ' * * *'
        else n % 60 || ' ' || n % 12 || ',' || n % 12 + 12 || ' * * *' end,
      case n % 10 when 5 then interval '10 minutes' when 6 then interval '37 minutes' when 7 then interval '2 hours'
        when 8 then interval '1 day' end,
      timestamptz '2026-01-01 00:00Z' + n * interval '11 seconds',
      (array['UTC', 'Europe/London', 'America/New_York', 'Australia/Lord_Howe', 'Asia/Kolkata'])[n % 5 + 1],
      case when n % 7 = 0 then interval '5 minutes' else interval '0' end,
      (array['skip', 'one', 'all'])[n % 3 + 1]
    from generate_series(0, $1 - 1) n`,
    [schedules],
  )
}

/** Every slot after `since` and up to `to` of these schedules, written down without croner and without our packages. */
function expectedSlots(since: ReadonlyMap<string, number>, toMs: number): Set<string> {
  const slots = new Set<string>()
  const earliest = Math.min(...since.values())
  const clocks = ['UTC', 'Europe/London', 'America/New_York', 'Australia/Lord_Howe', 'Asia/Kolkata'].map(
    (timeZone) => {
      const format = new Intl.DateTimeFormat('en-GB', { timeZone, hour: 'numeric', minute: 'numeric' })
      const shown = new Map<number, [hour: number, minute: number]>()
      for (let at = Math.ceil(earliest / minuteMs) * minuteMs; at <= toMs; at += minuteMs) {
        const [hour, minute] = format.format(at).split(':').map(Number)
        shown.set(at, [hour!, minute!])
      }
      return shown
    },
  )
  const intervals: Record<number, number> = { 5: 10, 6: 37, 7: 120, 8: 1_440 }
  for (let n = 0; n < schedules; n += 1) {
    const kind = n % 10
    const fromMs = since.get(`s${n}`)!
    const everyMinutes = intervals[kind]
    if (everyMinutes !== undefined) {
      const anchor = Date.parse('2026-01-01T00:00:00Z') + n * 11_000
      for (let at = anchor; at <= toMs; at += everyMinutes * minuteMs)
        if (at > fromMs) slots.add(`s${n} ${new Date(at).toISOString()}`)
      continue
    }
    for (const [at, [hour, minute]] of clocks[n % 5]!) {
      const named =
        n < 10 ||
        (kind === 0 && (minute === n % 60 || minute === (n + 30) % 60)) ||
        ([1, 2].includes(kind) && minute === n % 60) ||
        (kind === 3 && minute === n % 60 && hour === n % 24) ||
        ([4, 9].includes(kind) && minute === n % 60 && hour % 12 === n % 12)
      if (named && at > fromMs) slots.add(`s${n} ${new Date(at).toISOString()}`)
    }
  }
  return slots
}

test('a thousand schedules fire every slot of a day once, although a scheduler dies every minute', async () => {
  const random = seeded()
  await makeSchedules()
  const { rows: created } = await db.pool.query<{ name: string; since: Date }>(
    'select name, since from leasehold.schedules',
  )
  const living = [await Incarnation.start(random), await Incarnation.start(random)]
  let killed = 0
  for (let minute = 0; minute < minutes; minute += 1) {
    await db.advance(minuteMs)
    const victim = minute % 2
    living[victim]!.death = deaths[Math.floor(random() * deaths.length)]!
    const dead = await Promise.all(living.map(turns))
    if (dead[victim]) killed += 1
    living[victim] = await living[victim]!.successor()
  }
  // Jitter puts slots off: let all of them come due, and nothing new be missed.
  const { rows: ended } = await db.pool.query<{ at: Date }>('select leasehold.clock() as at')
  for (let minute = 0; minute < 6; minute += 1) {
    await db.advance(minuteMs)
    await turns(living[0]!)
  }
  await Promise.all(living.map((one) => one.end()))

  const { rows } = await db.pool.query<{ slot: string; tasks: number }>(
    `select t.meta ->> 'schedule' || ' ' || to_char((t.meta ->> 'slot')::timestamptz at time zone 'UTC',
      'YYYY-MM-DD"T"HH24:MI:SS.000"Z"') as slot, count(*)::integer as tasks
    from leasehold.tasks t where (t.meta ->> 'slot')::timestamptz <= $1 group by 1`,
    [ended[0]!.at],
  )
  const expected = expectedSlots(
    new Map(created.map(({ name, since }) => [name, since.getTime()])),
    ended[0]!.at.getTime(),
  )
  const fired = new Set(rows.map(({ slot }) => slot))
  expect([...expected].filter((slot) => !fired.has(slot))).toEqual([])
  expect([...fired].filter((slot) => !expected.has(slot))).toEqual([])
  expect(rows.filter(({ tasks }) => tasks !== 1)).toEqual([])
  expect(expected.size).toBeGreaterThan(35_000)
  expect(killed).toBeGreaterThan(minutes / 3)
  const { rows: skipped } = await db.pool.query(
    "select * from leasehold.schedule_firings where outcome = 'skipped'",
  )
  expect(skipped).toEqual([])
  const { rows: broken } = await db.pool.query('select * from leasehold.audit()')
  expect(broken).toEqual([])
}, 600_000)
