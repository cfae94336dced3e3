/**
 * The list of stages: their health, their depths and the settings their tasks inherit.
 *
 * Changing a stage is registerStage (../worker.ts) for its settings, pauseStage and resumeStage (../task.ts) for its flow.
 */
import type { Db } from '../db.ts'
import type { WholeRate } from '../rate.ts'
import { builder, rowsOf } from './query.ts'

/** What a stage is doing, judged by work and live workers. */
export type StageStatus =
  | 'paused'
  | 'no worker' // work and nobody to do it: this is the one to act on
  | 'no worker, no work'
  | 'workers missing' // fewer than expected
  | 'waiting for workers'
  | 'rate limited' // ready tasks wait for the next start that the limit allows
  | 'working'
  | 'idle'

/** A stage with its depths. When `exact` is false, depths above 1000 are the monitor's sample of `sampledAt`. */
export interface StageHealth {
  readonly stage: string
  readonly status: StageStatus
  readonly liveWorkers: number
  readonly expectedWorkers: number
  readonly ready: number
  readonly running: number
  readonly scheduled: number
  readonly waiting: number
  readonly exact: boolean
  readonly sampledAt: Date | null
  /** Age in milliseconds of the longest waiting ready task of the lowest priority in use; null without one. */
  readonly oldestReadyMs: number | null
  readonly paused: boolean
  /** When the pause ends by itself; null without a pause or when it lasts until somebody resumes the stage. */
  readonly pausedUntil: Date | null
  readonly priority: number
  readonly maxAttempts: number
  readonly maxCrashes: number
  readonly timeoutMs: number
  readonly backoffMinMs: number
  readonly backoffMaxMs: number
  readonly keyLimit: number
  readonly rate: WholeRate | null
  /** When the rate limit lets the next task start; null without a limit, or when one may start now. */
  readonly nextStartAt: Date | null
}

/** All stages by name, or the one that is named (empty when it is unknown). */
export async function listStages(db: Db, filter: { stage?: string } = {}): Promise<StageHealth[]> {
  const { from, sql, count, milliseconds } = await builder()
  const { stage } = filter
  const query = from
    .selectFrom('stage_health as h')
    .innerJoin('stages as s', 's.name', 'h.stage')
    .select([
      'h.stage',
      'h.status',
      count('h.live_workers').as('liveWorkers'),
      'h.expected_workers as expectedWorkers',
      count('h.ready').as('ready'),
      count('h.running').as('running'),
      count('h.scheduled').as('scheduled'),
      count('h.waiting').as('waiting'),
      'h.exact',
      'h.sampled_at as sampledAt',
      milliseconds('h.oldest_ready').as('oldestReadyMs'),
      sql<boolean>`coalesce(h.paused_until > leasehold.clock(), false)`.as('paused'),
      sql<Date | null>`case when h.paused_until > leasehold.clock() then nullif(h.paused_until, 'infinity') end`.as(
        'pausedUntil',
      ),
      's.priority',
      's.max_attempts as maxAttempts',
      's.max_crashes as maxCrashes',
      milliseconds('s.timeout').as('timeoutMs'),
      milliseconds('s.backoff_min').as('backoffMinMs'),
      milliseconds('s.backoff_max').as('backoffMaxMs'),
      's.key_limit as keyLimit',
      sql<WholeRate | null>`case when h.rate_tasks is not null then json_build_object('tasks', h.rate_tasks,
        'perMs', extract(epoch from h.rate_per) * 1000, 'burst', h.rate_burst) end`.as('rate'),
      'h.next_start_at as nextStartAt',
    ])
    .$if(stage !== undefined, (q) => q.where('h.stage', '=', stage!))
    .orderBy('h.stage')
    .$castTo<StageHealth>()
  return rowsOf(db, query)
}
