/**
 * Lists of workers: who lives, who is dead, and what they hold.
 *
 * Status is computed by the database from freshness, never from what a worker last said. Releasing dead workers is
 * ../worker.ts; here is only looking.
 */
import type { Db } from '../db.ts'
import { builder, checkLimit, rowsOf } from './query.ts'

/** Dead: its lease is over; wedged: it beats, but its main loop stands still; late: one beat is missing. */
export type WorkerStatus = 'dead' | 'wedged' | 'late' | 'draining' | 'working' | 'idle'

/** A worker that has not ended. */
export interface WorkerHealth {
  readonly workerId: string
  readonly slot: string
  readonly stages: readonly string[]
  readonly status: WorkerStatus
  readonly running: number
  readonly concurrency: number
  readonly lastSeen: Date
  /** Milliseconds since its last beat. */
  readonly silentMs: number
  readonly expiresAt: Date
  readonly startedAt: Date
  readonly upMs: number
  /** How often its slot was started before. */
  readonly restarts: number
  readonly host: string
  readonly pid: number | null
  readonly version: string | null
  readonly drainAsked: boolean
  readonly meta: unknown
}

/** Workers that have not ended, by slot; those of one stage when it is given. */
export async function listWorkers(db: Db, filter: { stage?: string } = {}): Promise<WorkerHealth[]> {
  const { from, sql, milliseconds } = await builder()
  const { stage } = filter
  const query = from
    .selectFrom('worker_health as w')
    .select([
      'w.worker_id as workerId',
      'w.slot',
      'w.stages',
      'w.status',
      'w.running',
      'w.concurrency',
      'w.last_seen as lastSeen',
      milliseconds('w.silent').as('silentMs'),
      'w.expires_at as expiresAt',
      'w.started_at as startedAt',
      milliseconds('w.up').as('upMs'),
      'w.restarts',
      'w.host',
      'w.pid',
      'w.version',
      'w.drain_asked as drainAsked',
      'w.meta',
    ])
    .$if(stage !== undefined, (q) => q.where(sql<boolean>`${stage} = any (w.stages)`))
    .orderBy('w.slot')
    .$castTo<WorkerHealth>()
  return rowsOf(db, query)
}

/** A worker that stopped beating. `stillHolds` counts tasks that nobody has released yet. */
export interface DeadWorkerRecord {
  readonly workerId: string
  readonly slot: string
  readonly stages: readonly string[]
  readonly host: string
  readonly pid: number | null
  readonly lastSeen: Date
  readonly silentMs: number
  readonly endedAt: Date | null
  /** `lost`, `superseded`, or `not released yet`. */
  readonly reason: string
  readonly stillHolds: number
}

/** Workers that died in the last week, last seen first, those that still wait for their release included. */
export async function listDeadWorkers(
  db: Db,
  filter: { stage?: string; limit?: number } = {},
): Promise<DeadWorkerRecord[]> {
  const { from, sql, count, milliseconds } = await builder()
  const { stage } = filter
  const query = from
    .selectFrom('dead_workers as w')
    .select([
      'w.worker_id as workerId',
      'w.slot',
      'w.stages',
      'w.host',
      'w.pid',
      'w.last_seen as lastSeen',
      milliseconds('w.silent').as('silentMs'),
      'w.ended_at as endedAt',
      'w.reason',
      count('w.still_holds').as('stillHolds'),
    ])
    .$if(stage !== undefined, (q) => q.where(sql<boolean>`${stage} = any (w.stages)`))
    .orderBy('w.last_seen', 'desc')
    .limit(checkLimit(filter.limit ?? 100))
    .$castTo<DeadWorkerRecord>()
  return rowsOf(db, query)
}

/** A task that runs now. `validity` says whether its worker may still settle it. */
export interface ActiveLease {
  readonly taskId: string
  readonly stage: string
  readonly title: string | null
  readonly runId: string | null
  readonly slot: string
  readonly workerId: string
  readonly attempt: number
  readonly leasedAt: Date
  readonly heldMs: number
  readonly deadlineAt: Date
  readonly validity: 'valid' | 'worker silent' | 'past deadline'
}

/** Leases of workers that have not ended, longest held first. */
export async function listLeases(
  db: Db,
  filter: { workerId?: string; stage?: string; limit?: number } = {},
): Promise<ActiveLease[]> {
  const { from, milliseconds } = await builder()
  const { workerId, stage } = filter
  const query = from
    .selectFrom('active_leases as l')
    .select([
      'l.task_id as taskId',
      'l.stage',
      'l.title',
      'l.run_id as runId',
      'l.slot',
      'l.worker_id as workerId',
      'l.attempt',
      'l.leased_at as leasedAt',
      milliseconds('l.held').as('heldMs'),
      'l.deadline_at as deadlineAt',
      'l.validity',
    ])
    .$if(workerId !== undefined, (q) => q.where('l.worker_id', '=', workerId!))
    .$if(stage !== undefined, (q) => q.where('l.stage', '=', stage!))
    .orderBy('l.leased_at')
    .limit(checkLimit(filter.limit ?? 100))
    .$castTo<ActiveLease>()
  return rowsOf(db, query)
}
