/**
 * The verbs of a worker beside its exchange (exchange.ts) and its beat (heartbeat.ts): register, read a checkpoint, leave,
 * and the duties workers share with the monitor (release the dead, advance floors).
 *
 * Thin: each calls one SQL function, which decides. The loop around them is @leasehold/runner.
 */
import type { Db } from './db.ts'
import { toMs } from './duration.ts'
import { wholeRate } from './rate.ts'
import type { StageSettings } from './stage.ts'
import { translating } from './translate.ts'

/** Creates the stage or brings its settings up to date; an operator's pause stays. */
export async function registerStage(db: Db, stage: StageSettings): Promise<void> {
  const { retry = {}, limits = {} } = stage
  const rate = limits.rate && wholeRate(limits.rate)
  // Whoever sets one end of the delays gets the other one's default: what the database has may lie beyond it.
  const fromMs = retry.from === undefined ? undefined : toMs(retry.from)
  const toLimitMs = retry.to === undefined ? undefined : toMs(retry.to)
  const setsDelays = fromMs !== undefined || toLimitMs !== undefined
  await translating(() =>
    db.query(
      `select leasehold.register_stage($1, p_priority => $2, p_max_attempts => $3,
        p_timeout => $4::bigint * interval '1 millisecond', p_backoff_min => $5::bigint * interval '1 millisecond',
        p_backoff_max => $6::bigint * interval '1 millisecond', p_max_crashes => $7, p_key_limit => $8, p_expected_workers => $9,
        p_rate_tasks => $10, p_rate_per => $11::bigint * interval '1 millisecond', p_rate_burst => $12)`,
      [
        stage.name,
        stage.priority,
        retry.attempts,
        stage.timeout === undefined ? undefined : toMs(stage.timeout),
        setsDelays ? (fromMs ?? 5000) : undefined,
        setsDelays ? (toLimitMs ?? Math.max(30_000, fromMs ?? 0)) : undefined,
        limits.crashes,
        limits.perKey,
        stage.expectedWorkers,
        rate === null ? 0 : rate?.tasks,
        rate?.perMs,
        rate?.burst,
      ],
    ),
  )
}

/** What a process says of itself when it takes a slot. */
export interface WorkerIntroduction {
  slot: string
  stages: string[]
  leaseTtlMs: number
  beatIntervalMs: number
  host: string
  pid: number
  version: string
  concurrency: number
  meta?: unknown
}

/** A slot taken: the new worker id, and what an earlier incarnation left behind. */
export interface WorkerRegistration {
  workerId: string
  /** The earlier incarnation that had not ended, or null. */
  superseded: string | null
  released: string[]
  quarantined: string[]
}

/** Takes a slot for a new worker; an earlier incarnation is ended and its tasks are free at once. */
export async function registerWorker(db: Db, worker: WorkerIntroduction): Promise<WorkerRegistration> {
  const { rows } = await translating(() =>
    db.query<WorkerRegistration & { workerId: string }>(
      `select worker_id as "workerId", superseded, coalesce(released, '{}')::text[] as released,
        coalesce(quarantined, '{}')::text[] as quarantined
      from leasehold.register_worker($1, $2, $3::bigint * interval '1 millisecond', $4::bigint * interval '1 millisecond',
        $5, $6, $7, $8, $9)`,
      [
        worker.slot,
        worker.stages,
        worker.leaseTtlMs,
        worker.beatIntervalMs,
        worker.host,
        worker.pid,
        worker.version,
        worker.concurrency,
        worker.meta === undefined ? null : JSON.stringify(worker.meta),
      ],
    ),
  )
  return rows[0]!
}

/** The stored value of a checkpoint as JSON text, or null when it was never reached. */
export async function readCheckpoint(db: Db, taskId: string, name: string): Promise<string | null> {
  const { rows } = await db.query<{ value: string }>(
    `select coalesce(value, 'null')::text as value from leasehold.task_checkpoints where task_id = $1 and name = $2`,
    [taskId, name],
  )
  return rows[0]?.value ?? null
}

/** Leaves in order; what is still held is released without counting. False when the worker had been ended. */
export async function leave(db: Db, workerId: string, reason: string): Promise<boolean> {
  const { rows } = await db.query<{ left: boolean }>('select leasehold.leave($1, $2) as left', [
    workerId,
    reason,
  ])
  return rows[0]!.left
}

/**
 * Takes leases from this worker which it does not know of (`known`: those it holds): what an exchange claimed whose answer
 * was lost. They are given back, or failed as timeouts where their deadline has passed. No exchange may be started
 * meanwhile. Returns the ids of their tasks, or null when the worker is not live.
 */
export async function returnStrays(
  db: Db,
  workerId: string,
  known: readonly { readonly taskId: string; readonly fence: string }[],
): Promise<string[] | null> {
  const ids = known.map((lease) => lease.taskId)
  const fences = known.map((lease) => lease.fence)
  const { rows } = await db.query<{ ids: string[] | null }>(
    'select leasehold.return_strays($1, $2, $3)::text[] as ids',
    [workerId, `{${ids.join(',')}}`, `{${fences.join(',')}}`],
  )
  return rows[0]!.ids
}

/** A worker that was found dead, and what became of its tasks. */
export interface DeadWorker {
  workerId: string
  slot: string
  stages: string[]
  host: string
  pid: number | null
  beatAt: Date
  silentMs: number
  released: string[]
  quarantined: string[]
}

/** Releases what dead workers hold. Safe to call from anywhere, any number of times at once. */
export async function releaseDeadWorkers(db: Db, limit = 100): Promise<DeadWorker[]> {
  const { rows } = await db.query<DeadWorker & { workerId: string }>(
    `select worker_id as "workerId", slot, stages, host, pid, beat_at as "beatAt",
      extract(epoch from silent)::float8 * 1000 as "silentMs", coalesce(released, '{}')::text[] as released,
      coalesce(quarantined, '{}')::text[] as quarantined
    from leasehold.release_dead_workers($1)`,
    [limit],
  )
  return rows
}

/** Moves the lane floors; null when another process does, or did within `everyMs`. In a transaction of its own. */
export async function advanceFloors(db: Db, everyMs: number): Promise<number | null> {
  const { rows } = await db.query<{ raised: number | null }>(
    "select leasehold.advance_floors_every($1::int * interval '1 millisecond') as raised",
    [everyMs],
  )
  return rows[0]!.raised
}

/** Milliseconds since a monitor last looked; null when none ever did. */
export async function monitorSilenceMs(db: Db): Promise<number | null> {
  const { rows } = await db.query<{ ms: number | null }>(
    'select extract(epoch from leasehold.monitor_silence())::float8 * 1000 as ms',
  )
  return rows[0]!.ms
}
