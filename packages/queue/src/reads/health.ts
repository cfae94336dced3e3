/**
 * Is everything as it should be? The checks of the database, broken invariants, open incidents, recent failures, roles.
 *
 * Only looks and reports; what to do stands in each check's advice. Settings of the server are judged in settings.ts.
 */
import type { Db } from '../db.ts'
import { builder, checkLimit, rowsOf } from './query.ts'

/** A single check. `bad` needs somebody now, `warn` some time. */
export interface HealthCheck {
  readonly name: string
  readonly status: 'ok' | 'warn' | 'bad'
  readonly value: string | null
  readonly advice: string
}

/** The moment by the clock that judges leases, deadlines and schedules. A caller's own clock may differ. */
export async function databaseClock(db: Db): Promise<Date> {
  const { rows } = await db.query<{ now: Date }>('select leasehold.clock() as now')
  return rows[0]!.now
}

/** The checks of the view database_health, the worst first. */
export async function databaseHealth(db: Db): Promise<HealthCheck[]> {
  const { from, sql } = await builder()
  const query = from
    .selectFrom('database_health as h')
    .select(['h.name', 'h.status', 'h.value', 'h.advice'])
    .orderBy(sql`array_position(array['bad', 'warn', 'ok'], h.status)`)
    .orderBy('h.name')
    .$castTo<HealthCheck>()
  return rowsOf(db, query)
}

/** Something that must never be; a bug of ours. `taskId` is null where no single task is concerned. */
export interface InvariantViolation {
  readonly violation: string
  readonly taskId: string | null
  readonly stage: string | null
  readonly detail: string | null
}

/** Broken invariants; must be empty at all times. */
export async function invariantViolations(db: Db, limit = 100): Promise<InvariantViolation[]> {
  const { from } = await builder()
  const query = from
    .selectFrom('invariant_violations as v')
    .select(['v.violation', 'v.task_id as taskId', 'v.stage', 'v.detail'])
    .limit(checkLimit(limit))
    .$castTo<InvariantViolation>()
  return rowsOf(db, query)
}

/** Something that is wrong now and that a monitor has noticed. */
export interface OpenIncident {
  readonly id: string
  readonly kind: string
  readonly subject: string
  readonly summary: string
  readonly openedAt: Date
  readonly openMs: number
  readonly details: unknown
}

/** Open incidents, the oldest first. */
export async function openIncidents(db: Db, limit = 100): Promise<OpenIncident[]> {
  const { from, milliseconds } = await builder()
  const query = from
    .selectFrom('open_incidents as i')
    .select([
      'i.id',
      'i.kind',
      'i.subject',
      'i.summary',
      'i.opened_at as openedAt',
      milliseconds('i.open_for').as('openMs'),
      'i.details',
    ])
    .orderBy('i.opened_at')
    .limit(checkLimit(limit))
    .$castTo<OpenIncident>()
  return rowsOf(db, query)
}

/** An attempt that failed: its task is dead, will be retried, or was lost with its worker. */
export interface RecentFailure {
  readonly endedAt: Date
  readonly taskId: string
  readonly stage: string
  readonly outcome: 'dead' | 'retry' | 'lost'
  readonly attempt: number
  readonly code: string | null
  readonly message: string | null
  readonly runId: string | null
  readonly title: string | null
  readonly slot: string | null
}

/** Failed attempts of the last week, the newest first. */
export async function recentFailures(db: Db, limit = 100): Promise<RecentFailure[]> {
  const { from } = await builder()
  const query = from
    .selectFrom('recent_failures as f')
    .select([
      'f.ended_at as endedAt',
      'f.task_id as taskId',
      'f.stage',
      'f.outcome',
      'f.attempt',
      'f.code',
      'f.message',
      'f.run_id as runId',
      'f.title',
      'f.slot',
    ])
    .orderBy('f.ended_at', 'desc')
    .limit(checkLimit(limit))
    .$castTo<RecentFailure>()
  return rowsOf(db, query)
}

const roleNames = [
  'leasehold_owner',
  'leasehold_submitter',
  'leasehold_worker',
  'leasehold_observer',
  'leasehold_operator',
] as const

/** One of the five roles, and what the connected user may do with it. */
export interface RoleState {
  readonly role: (typeof roleNames)[number]
  readonly exists: boolean
  /** The connected user has this role's rights. */
  readonly granted: boolean
}

/** The five roles as this cluster has them. Without them everything works for the owner of the schema only. */
export async function listRoles(db: Db): Promise<RoleState[]> {
  const { rows } = await db.query<RoleState & { role: (typeof roleNames)[number] }>(
    `select n.role, r.oid is not null as exists,
       r.oid is not null and pg_catalog.pg_has_role(r.oid, 'usage') as granted
     from pg_catalog.unnest($1::text[]) with ordinality as n(role, nr)
     left join pg_catalog.pg_roles r on r.rolname = n.role order by n.nr`,
    [roleNames],
  )
  return rows
}
