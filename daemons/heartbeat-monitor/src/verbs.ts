/**
 * The monitor's SQL: each function here calls one statement or one function of the migrations.
 *
 * Invariant: no decision is made here. What counts as dead, wedged or lonely is decided in SQL, and so is what is worth a
 * message (news.ts); its words are compose.ts. Ids are strings; times come from the database's clock.
 */
import type { Db } from '@leasehold/queue'

/** What a monitor says of itself with each look. */
export interface MonitorIntroduction {
  readonly id: string
  readonly host: string
  readonly pid: number
  readonly version: string
  readonly intervalMs: number
}

/** A task that a dead worker held. */
export interface HeldTask {
  readonly task_id: string
  readonly stage: string
  readonly title: string | null
  readonly quarantined: boolean
}

/** Details of `worker_dead`. `held` has at most 100 entries, the counts are exact. */
export interface DeathDetails {
  readonly worker_id: string
  readonly slot: string
  readonly stages: readonly string[]
  readonly host: string
  readonly pid: number | null
  /** `lost`: its lease ran out; `superseded`: its slot was started again before that. */
  readonly end: 'lost' | 'superseded'
  readonly last_seen: string
  readonly silent_s: number
  readonly held: readonly HeldTask[]
  readonly released_count: number
  readonly quarantined_count: number
  /** The stages that had no live worker at that moment. */
  readonly unserved: readonly string[]
}

interface DetailsByKind {
  worker_dead: DeathDetails
  worker_wedged: {
    worker_id: string
    slot: string
    stages: readonly string[]
    host: string
    pid: number | null
    stands_still_s: number
    running: number
  }
  stage_without_worker: { stage: string; oldest: string; last_worker_seen: string | null }
  workers_missing: { stage: string; live: number; expected: number }
  task_quarantined: {
    task_id: string
    stage: string
    title: string | null
    error: { message?: string } | null
  }
  monitor_silent: { monitor_id: string; host: string; pid: number | null; ticked_at: string }
  tasks_failing: {
    stage: string
    dead: number
    last_at: string
    last: { task_id: string; title: string | null; error: string | null }
  }
  backlog_old: { stage: string; age_s: number; limit_s: number }
  channel_down: {
    channel: string
    failures: number
    refused: boolean
    /** Doubts have used up the day's cap. */
    withheld?: boolean
    /** Something waits and no monitor takes it. */
    unserved?: boolean
    error: string
  }
  mail_undeliverable: { tries: number; error: string }
  // Of programs beside the monitor: whatever they say is told by its summary.
  schedule_missed: Readonly<Record<string, unknown>>
  schedule_failing: Readonly<Record<string, unknown>>
  housekeeping_overdue: Readonly<Record<string, unknown>>
}

/** The kinds of incident there are. */
export type IncidentKind = keyof DetailsByKind

/** An incident of one kind, with that kind's details. */
export type IncidentOf<K extends IncidentKind> = K extends IncidentKind
  ? {
      readonly id: string
      readonly kind: K
      readonly subject: string
      readonly summary: string
      readonly opened_at: string
      readonly resolved_at: string | null
      readonly details: DetailsByKind[K]
    }
  : never

/** One condition about one subject, open until it is gone. */
export type Incident = IncidentOf<IncidentKind>

/** What one look found. `looked` false: another monitor was looking at that moment. */
export interface TickAnswer {
  readonly looked: boolean
  /** More workers wait to be released: look again at once. */
  readonly unfinished: boolean
  readonly opened: readonly Incident[]
  readonly resolved: readonly Incident[]
}

/** Registers or renews the monitor. Answers how long no monitor had looked, in milliseconds; null: none ever did. */
export async function monitorBeat(
  tx: Db,
  monitor: MonitorIntroduction,
  awayMs: number,
): Promise<number | null> {
  const { rows } = await tx.query<{ silent_ms: number | null }>(
    `select extract(epoch from leasehold.monitor_beat($1, $2, $3, $4, $5, $6::float8 * interval '1 millisecond'))::float8
      * 1000 as silent_ms`,
    [monitor.id, monitor.host, monitor.pid, monitor.version, monitor.intervalMs, awayMs],
  )
  return rows[0]?.silent_ms ?? null
}

/** Releases the dead and overdue, opens and resolves incidents; in the transaction that keeps the alert about them. */
export async function monitorTick(
  tx: Db,
  limits: { readonly wedgeLimitMs: number; readonly lonelyAfterMs: number },
): Promise<TickAnswer> {
  const { rows } = await tx.query<TickAnswer & { looked: boolean }>(
    `select looked, unfinished, opened, resolved
    from leasehold.monitor_tick($1::float8 * interval '1 millisecond', $2::float8 * interval '1 millisecond')`,
    [limits.wedgeLimitMs, limits.lonelyAfterMs],
  )
  return rows[0] ?? { looked: false, unfinished: false, opened: [], resolved: [] }
}

/** The monitor stops in order, so that its peers do not report its silence. */
export async function monitorLeave(db: Db, monitorId: string): Promise<void> {
  await db.query('select leasehold.monitor_leave($1)', [monitorId])
}

/** Where a message comes from, said at its end, since one mailbox may hear from several databases; and the clock that counts. */
export async function databaseFacts(db: Db): Promise<{ readonly name: string; readonly now: Date }> {
  const { rows } = await db.query<{ name: string; now: Date }>(
    'select current_database()::text as name, leasehold.clock() as now',
  )
  return rows[0] ?? { name: '?', now: new Date() }
}

/** What says whether floors have to move: the last position drawn, and submitters that were passed. */
export async function floorSigns(db: Db): Promise<{ position: string; stragglers: number }> {
  const { rows } = await db.query<{ position: string; stragglers: number }>(
    `select last_value::text as position, (select count(*) from leasehold.stragglers)::integer as stragglers
    from leasehold.ready_position_seq`,
  )
  return rows[0] ?? { position: '', stragglers: 0 }
}
