/**
 * Schedules: put, remove, switch; and the two statements by which schedulers plan and fire.
 *
 * Invariant: a slot fires exactly once or leaves a recorded skip; the database keeps that (0012, 0022), whoever calls.
 * Which moments a timing names is @leasehold/schedules, which also fires by hand; lists are reads/schedules.ts. Timings are
 * not parsed here: parse them first (parseTiming), or a scheduler will report them as a problem of the schedule.
 */
import type { Db } from './db.ts'
import { ValueRefusedError } from './errors.ts'
import { translating } from './translate.ts'

/** Who keeps a schedule; `leasehold apply` touches only its own. */
export type ScheduleOwner = 'manifest' | 'cli' | 'sql'

/** A schedule as it is to be. Exactly one of `cron` and `everyMs`. */
export interface ScheduleInput {
  /** Lower case letters, digits, `_ . -`, at most 48 characters. */
  readonly name: string
  readonly stage: string
  readonly cron?: string | null
  /** Whole seconds, in milliseconds. */
  readonly everyMs?: number | null
  /** Intervals count from here; default 1970-01-01T00:00:00Z. */
  readonly anchor?: Date
  /** IANA name; default UTC. */
  readonly zone?: string
  /** JSON; default `{}`. */
  readonly payload?: unknown
  readonly priority?: number | null
  /** Key of its tasks: a slot is skipped while an earlier task is unfinished. */
  readonly key?: string | null
  /** Default `one`. */
  readonly catchUp?: 'skip' | 'one' | 'all'
  readonly jitterMs?: number
  readonly enabled?: boolean
  /** Who is to fire it, for the monitor: without a scheduler nothing is wrong with those of a timer. Default `scheduler`. */
  readonly firedBy?: 'scheduler' | 'timer'
  readonly owner: ScheduleOwner
}

/**
 * Makes a schedule or changes it to what is given; left-out fields become their defaults. A changed timing holds from
 * now on; an unchanged one is left alone. Throws {@link ValueRefusedError} for values the database refuses.
 */
export async function putSchedule(
  db: Db,
  schedule: ScheduleInput,
): Promise<'created' | 'changed' | 'unchanged'> {
  const payload = JSON.stringify(schedule.payload ?? {})
  if (payload === undefined) throw new ValueRefusedError('22023', null, 'the payload is no JSON')
  const { rows } = await translating(() =>
    db.query<{ created: boolean }>(
      `insert into leasehold.schedules as s
        (name, stage, cron, every, anchor, zone, payload, priority, key, catch_up, jitter, enabled, owner, fired_by)
      values ($1, $2, $3, $4::float8 * interval '1 millisecond', $5, $6, $7, $8, $9, $10,
        $11::float8 * interval '1 millisecond', $12, $13, $14)
      on conflict (name) do update
      set (stage, cron, every, anchor, zone, payload, priority, key, catch_up, jitter, enabled, owner, fired_by)
        = (excluded.stage, excluded.cron, excluded.every, excluded.anchor, excluded.zone, excluded.payload, excluded.priority,
           excluded.key, excluded.catch_up, excluded.jitter, excluded.enabled, excluded.owner, excluded.fired_by)
      where (s.stage, s.cron, s.every, s.anchor, s.zone, s.payload, s.priority, s.key, s.catch_up, s.jitter, s.enabled, s.owner,
          s.fired_by)
        is distinct from (excluded.stage, excluded.cron, excluded.every, excluded.anchor, excluded.zone, excluded.payload,
           excluded.priority, excluded.key, excluded.catch_up, excluded.jitter, excluded.enabled, excluded.owner, excluded.fired_by)
      returning s.xmax = 0 as created`,
      [
        schedule.name,
        schedule.stage,
        schedule.cron?.trim() ?? null,
        schedule.everyMs ?? null,
        schedule.anchor ?? new Date(0),
        schedule.zone ?? 'UTC',
        payload,
        schedule.priority ?? null,
        schedule.key ?? null,
        schedule.catchUp ?? 'one',
        schedule.jitterMs ?? 0,
        schedule.enabled ?? true,
        schedule.owner,
        schedule.firedBy ?? 'scheduler',
      ],
    ),
  )
  if (rows[0] === undefined) return 'unchanged'
  return rows[0].created ? 'created' : 'changed'
}

/** Removes a schedule; tasks it has submitted stay, and so does its history. False when there is none of this name. */
export async function removeSchedule(db: Db, name: string): Promise<boolean> {
  const { rowCount } = await db.query('delete from leasehold.schedules where name = $1', [name])
  return rowCount === 1
}

/** Switches a schedule on. What passed while it was off is not made up for. Null: no such schedule; false: it was on. */
export function enableSchedule(db: Db, name: string): Promise<boolean | null> {
  return switchSchedule(db, name, true)
}

/** Switches a schedule off; a slot that was due and had not fired is recorded as skipped. Null: none; false: it was off. */
export function disableSchedule(db: Db, name: string): Promise<boolean | null> {
  return switchSchedule(db, name, false)
}

async function switchSchedule(db: Db, name: string, enabled: boolean): Promise<boolean | null> {
  const { rowCount } = await db.query(
    'update leasehold.schedules set enabled = $2 where name = $1 and enabled <> $2',
    [name, enabled],
  )
  if (rowCount === 1) return true
  const known = await db.query('select from leasehold.schedules where name = $1', [name])
  return known.rowCount === 1 ? false : null
}

/** What a plan is made from. Moments are milliseconds since 1970. */
export interface ScheduleFacts {
  readonly name: string
  readonly revision: number
  readonly enabled: boolean
  readonly cron: string | null
  readonly every_ms: number | null
  readonly anchor: number
  readonly zone: string
  readonly catch_up: 'skip' | 'one' | 'all'
  readonly jitter_ms: number
  /** The first slot that is neither fired nor skipped; null: not computed yet. */
  readonly next_slot: number | null
  /** No slot up to here belongs to the schedule. */
  readonly since: number
  /** The clock went back after it was planned: forget the plan. */
  readonly anew?: boolean
}

/** What a scheduler has to do now, by the database's clock. */
export interface SchedulerTick {
  readonly now: number
  /** Until the next slot is due; null: no schedule has one. 0 while something is due. */
  readonly wait_ms: number | null
  readonly due: readonly ScheduleFacts[]
}

/** Who a scheduler is. */
export interface SchedulerIntroduction {
  readonly id: string
  readonly host: string
  readonly pid: number
  readonly version: string
  readonly pollMs: number
}

/** One look: renews the scheduler's row and answers what is due, at most `limit` schedules of each sort. */
export async function schedulerTick(
  db: Db,
  scheduler: SchedulerIntroduction,
  limit = 500,
): Promise<SchedulerTick> {
  const { id, host, pid, version, pollMs } = scheduler
  const { rows } = await db.query<{ tick: SchedulerTick }>(
    'select leasehold.scheduler_tick($1, $2, $3, $4, $5, $6) as tick',
    [id, host, pid, version, pollMs, limit],
  )
  return rows[0]!.tick
}

/** A scheduler stops in order; it will not be missed. */
export async function schedulerLeave(db: Db, schedulerId: string): Promise<void> {
  await db.query('select leasehold.scheduler_leave($1)', [schedulerId])
}

/** The facts of one schedule and the database's clock; null when there is none of this name. */
export async function scheduleFacts(
  db: Db,
  name: string,
): Promise<{ facts: ScheduleFacts; now: number } | null> {
  const { rows } = await db.query<{ facts: ScheduleFacts; now: string }>(
    `select leasehold.schedule_facts(s) as facts, leasehold.epoch_ms(leasehold.clock()) as now
    from leasehold.schedules s where s.name = $1`,
    [name],
  )
  return rows[0] === undefined ? null : { facts: rows[0].facts, now: Number(rows[0].now) }
}

/** What is to become of one schedule. Moments are milliseconds since 1970. */
export interface SchedulePlan {
  readonly name: string
  readonly revision: number
  /** The next_slot it was made for. */
  readonly expected: number | null
  readonly fire: readonly number[]
  readonly skip_first?: number
  readonly skip_last?: number
  /** Null: too many to count. */
  readonly skip_count?: number | null
  readonly next: number | null
  /** Why it cannot fire. */
  readonly problem?: string
  /** Who holds what its firing needs: it is put off by 15 s, and after five minutes of that this is its problem. */
  readonly held?: string
  /** The firing lies outside of its slots. */
  readonly extra?: boolean
}

/** One row of the history that a plan has written. */
export interface RecordedFiring {
  readonly schedule: string
  /** ISO 8601. */
  readonly slot: string
  readonly last_slot?: string | null
  readonly slots?: number | null
  readonly outcome: 'fired' | 'skipped'
  readonly reason: string | null
  readonly task_id?: string | null
}

/** A plan that was carried out; `recorded` leaves out slots that had been fired before. */
export interface CarriedOut {
  readonly schedule: string
  readonly recorded: readonly RecordedFiring[]
}

/**
 * Carries plans out in one transaction: tasks, history and next slots commit together. A plan that is missing from the
 * answer was refused, because its schedule has changed or is locked: make it anew.
 */
export async function advanceSchedules(
  db: Db,
  plans: readonly SchedulePlan[],
  by: { readonly scheduler: string } | 'command',
): Promise<CarriedOut[]> {
  const { rows } = await db.query<CarriedOut & { schedule: string }>(
    'select schedule, recorded from leasehold.advance_schedules($1::jsonb, $2, $3)',
    by === 'command'
      ? [JSON.stringify(plans), 'command', null]
      : [JSON.stringify(plans), 'scheduler', by.scheduler],
  )
  return rows
}
