/**
 * The monitor's SQL: each function here calls one statement or one function of migrations/0008_monitor.sql.
 *
 * Invariant: no decision is made here. What counts as dead, wedged or lonely is decided in SQL, what is worth a mail in
 * policy.ts, its words in compose.ts. Ids are strings; times come from the database's clock.
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
  mail_undeliverable: { tries: number; error: string }
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

/** Where a message comes from: said at its end, since one mailbox may hear from several databases. */
export async function databaseName(db: Db): Promise<string> {
  const { rows } = await db.query<{ name: string }>('select current_database()::text as name')
  return rows[0]?.name ?? '?'
}

/** Puts a message into the outbox; it is sent only if this transaction commits. Answers its id. */
export async function queueAlert(
  tx: Db,
  alert: { readonly incidentIds: readonly string[]; readonly subject: string; readonly body: string },
): Promise<string> {
  const { rows } = await tx.query<{ id: string }>(
    'insert into leasehold.alerts (incident_ids, subject, body) values ($1::bigint[], $2, $3) returning id::text as id',
    [alert.incidentIds, alert.subject, alert.body],
  )
  return rows[0]?.id ?? ''
}

/** A message that was taken from the outbox to be sent. `tries` counts this one. */
export interface ClaimedAlert {
  readonly id: string
  readonly subject: string
  readonly body: string
  readonly created_at: Date
  readonly tries: number
}

/**
 * Takes unsent messages, the oldest first; nobody else gets them within `claimMs`. A sender that dies leaves nothing
 * behind but that wait.
 */
export async function claimAlerts(db: Db, claimMs: number, limit: number): Promise<ClaimedAlert[]> {
  const { rows } = await db.query<ClaimedAlert & { id: string }>(
    `with picked as (
      select a.id from leasehold.alerts a
      where a.sent_at is null and a.channel = 'email'
        and (a.claimed_until is null or a.claimed_until <= leasehold.clock())
      order by a.id limit $2 for update skip locked
    ), claimed as (
      update leasehold.alerts a
      set tries = a.tries + 1, claimed_until = leasehold.clock() + $1::float8 * interval '1 millisecond'
      from picked p where a.id = p.id
      returning a.id, a.subject, a.body, a.created_at, a.tries
    )
    select id::text as id, subject, body, created_at, tries from claimed order by claimed.id`,
    [claimMs, limit],
  )
  return rows
}

/** The mail server has accepted them. `remark`: what it said about single recipients, or null. */
export async function markSent(db: Db, ids: readonly string[], remark: string | null): Promise<void> {
  await db.query(
    `update leasehold.alerts set sent_at = leasehold.clock(), claimed_until = null, last_error = $2
    where id = any ($1::bigint[]) and sent_at is null`,
    [ids, remark],
  )
}

/** The try failed: they go back and are due again after `delayMs`. */
export async function markFailed(
  tx: Db,
  ids: readonly string[],
  error: string,
  delayMs: number,
): Promise<void> {
  await tx.query(
    `update leasehold.alerts set claimed_until = null, last_error = $2,
      next_try_at = leasehold.clock() + $3::float8 * interval '1 millisecond'
    where id = any ($1::bigint[]) and sent_at is null`,
    [ids, error, delayMs],
  )
}

/** Opens `mail_undeliverable` unless it is open; views show it, no mail can. The look after the delivery resolves it. */
export async function openMailIncident(tx: Db, tries: number, error: string): Promise<void> {
  await tx.query(`select leasehold.open_incident('mail_undeliverable', 'smtp', $1, $2::jsonb)`, [
    `mail could not be delivered ${tries} times: ${error}`,
    JSON.stringify({ tries, error }),
  ])
}

/** Is an unsent message due for longer than `slackMs`, so that its job must have been lost? */
export async function deliveryOverdue(db: Db, slackMs: number): Promise<boolean> {
  const { rows } = await db.query<{ overdue: boolean }>(
    `select exists (
      select from leasehold.alerts a where a.sent_at is null and a.channel = 'email'
        and greatest(a.next_try_at, a.claimed_until) < leasehold.clock() - $1::float8 * interval '1 millisecond'
    ) as overdue`,
    [slackMs],
  )
  return rows[0]?.overdue ?? false
}

/** What says whether floors have to move: the last position drawn, and submitters that were passed. */
export async function floorSigns(db: Db): Promise<{ position: string; stragglers: number }> {
  const { rows } = await db.query<{ position: string; stragglers: number }>(
    `select last_value::text as position, (select count(*) from leasehold.stragglers)::integer as stragglers
    from leasehold.ready_position_seq`,
  )
  return rows[0] ?? { position: '', stragglers: 0 }
}
