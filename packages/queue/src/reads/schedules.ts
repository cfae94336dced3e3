/**
 * Lists of schedules, of what became of their slots, and of who fires them.
 *
 * Only looking; changing and firing is ../schedules.ts.
 */
import type { Db } from '../db.ts'
import { type Builder, builder, checkLimit, rowsOf } from './query.ts'

/** Late: its slot is overdue; broken: it cannot fire (see problem); failed: its last task ended dead. */
export type ScheduleStatus =
  | 'ok'
  | 'late'
  | 'broken'
  | 'failed'
  | 'skipped' // its stage is unknown
  | 'not planned yet'
  | 'disabled'

/** A schedule with its last slot and its next one. */
export interface ScheduleHealth {
  readonly name: string
  readonly status: ScheduleStatus
  readonly stage: string
  readonly cron: string | null
  readonly everyMs: number | null
  readonly anchor: Date
  readonly zone: string
  readonly catchUp: 'skip' | 'one' | 'all'
  readonly jitterMs: number
  readonly enabled: boolean
  readonly owner: 'manifest' | 'cli' | 'sql'
  /** Who is to fire it; whoever comes first does. */
  readonly firedBy: 'scheduler' | 'timer'
  readonly key: string | null
  readonly priority: number | null
  readonly nextSlot: Date | null
  /** When the next slot is due: the slot and its jitter. */
  readonly nextAt: Date | null
  /** Milliseconds that the next slot is overdue; 0 when it lies ahead. */
  readonly lateByMs: number
  readonly lastSlot: Date | null
  readonly lastOutcome: 'fired' | 'skipped' | null
  readonly lastReason: string | null
  readonly lastAt: Date | null
  readonly lastTaskId: string | null
  readonly lastTaskState: 'done' | 'dead' | 'cancelled' | 'unfinished' | null
  readonly problem: string | null
}

/** Schedules by name. */
export async function listSchedules(
  db: Db,
  filter: { name?: string; owner?: ScheduleHealth['owner'] } = {},
): Promise<ScheduleHealth[]> {
  const { from, milliseconds } = await builder()
  const { name, owner } = filter
  const query = from
    .selectFrom('schedule_health as s')
    .select([
      's.schedule as name',
      's.status',
      's.stage',
      's.cron',
      milliseconds('s.every').as('everyMs'),
      's.anchor',
      's.zone',
      's.catch_up as catchUp',
      milliseconds('s.jitter').as('jitterMs'),
      's.enabled',
      's.owner',
      's.fired_by as firedBy',
      's.key',
      's.priority',
      's.next_slot as nextSlot',
      's.next_at as nextAt',
      milliseconds('s.late_by').as('lateByMs'),
      's.last_slot as lastSlot',
      's.last_outcome as lastOutcome',
      's.last_reason as lastReason',
      's.last_at as lastAt',
      's.last_task_id as lastTaskId',
      's.last_task_state as lastTaskState',
      's.problem',
    ])
    .$if(name !== undefined, (q) => q.where('s.schedule', '=', name!))
    .$if(owner !== undefined, (q) => q.where('s.owner', '=', owner!))
    .orderBy('s.schedule')
    .$castTo<ScheduleHealth>()
  return rowsOf(db, query)
}

/** What became of a slot, or of several that were skipped together. */
export interface FiringRecord {
  readonly schedule: string
  readonly slot: Date
  /** The last of several; null for a single slot. */
  readonly lastSlot: Date | null
  /** How many slots; null: many, or unknown. */
  readonly slots: number | null
  readonly outcome: 'fired' | 'skipped'
  readonly reason: string | null
  readonly taskId: string | null
  readonly taskState: 'done' | 'dead' | 'cancelled' | 'unfinished' | null
  readonly dueAt: Date | null
  readonly recordedAt: Date
  readonly recordedBy: 'scheduler' | 'command' | 'edit'
}

function firings({ from, sql }: Builder) {
  return from
    .selectFrom('schedule_firings as f')
    .select([
      'f.schedule',
      'f.slot',
      'f.last_slot as lastSlot',
      'f.slots',
      'f.outcome',
      'f.reason',
      'f.task_id as taskId',
      sql<
        string | null
      >`case when f.task_id is not null then coalesce(leasehold.final_outcome(f.task_id), 'unfinished') end`.as(
        'taskState',
      ),
      'f.due_at as dueAt',
      'f.recorded_at as recordedAt',
      'f.recorded_by as recordedBy',
    ])
    .$castTo<FiringRecord>()
}

/** The history, latest first: by slot for one schedule, by when it was recorded for all. */
export async function listFirings(
  db: Db,
  filter: { schedule?: string; limit?: number } = {},
): Promise<FiringRecord[]> {
  const { schedule } = filter
  const query = firings(await builder())
    .$if(schedule !== undefined, (q) => q.where('f.schedule', '=', schedule!))
    .$if(schedule === undefined, (q) => q.orderBy('f.recorded_at', 'desc'))
    .orderBy('f.slot', 'desc')
    .limit(checkLimit(filter.limit ?? 100))
  return rowsOf(db, query)
}

/** What became of one slot, also when it was skipped together with others; null: nothing yet. */
export async function firingOf(db: Db, schedule: string, slot: Date): Promise<FiringRecord | null> {
  const query = firings(await builder())
    .where('f.schedule', '=', schedule)
    .where('f.slot', '<=', slot)
    .where((is) => is.or([is('f.slot', '=', slot), is('f.last_slot', '>=', slot)]))
    .orderBy('f.slot', 'desc')
    .limit(1)
  return (await rowsOf(db, query))[0] ?? null
}

/** A scheduler process of the last week. */
export interface SchedulerHealth {
  readonly schedulerId: string
  readonly host: string
  readonly pid: number | null
  readonly version: string | null
  readonly status: 'live' | 'dead' | 'stopped'
  readonly startedAt: Date
  readonly lastSeen: Date
  readonly silentMs: number
  readonly ticks: number
}

/** Schedulers, last seen first. */
export async function listSchedulers(db: Db): Promise<SchedulerHealth[]> {
  const { from, count, milliseconds } = await builder()
  const query = from
    .selectFrom('scheduler_health as c')
    .select([
      'c.scheduler_id as schedulerId',
      'c.host',
      'c.pid',
      'c.version',
      'c.status',
      'c.started_at as startedAt',
      'c.last_seen as lastSeen',
      milliseconds('c.silent').as('silentMs'),
      count('c.ticks').as('ticks'),
    ])
    .orderBy('c.last_seen', 'desc')
    .$castTo<SchedulerHealth>()
  return rowsOf(db, query)
}
