/**
 * The columns of the views and tables that reads/ filters, as kysely-codegen 0.20 prints them (intervals left out:
 * they are read as milliseconds). Changed by hand only when a migration changes a column; the tests of reads/ run
 * every query on a migrated database.
 */

import type { ColumnType } from 'kysely'

export type ArrayType<T> = ArrayTypeImpl<T> extends (infer U)[] ? U[] : ArrayTypeImpl<T>

export type ArrayTypeImpl<T> =
  T extends ColumnType<infer S, infer I, infer U> ? ColumnType<S[], I[], U[]> : T[]

export type Generated<T> =
  T extends ColumnType<infer S, infer I, infer U>
    ? ColumnType<S, I | undefined, U>
    : ColumnType<T, T | undefined, T>

export type Int8 = ColumnType<string, bigint | number | string, bigint | number | string>

export type Json = JsonValue

export type JsonArray = JsonValue[]

export type JsonObject = {
  [x: string]: JsonValue | undefined
}

export type JsonPrimitive = boolean | number | string | null

export type JsonValue = JsonArray | JsonObject | JsonPrimitive

export type Timestamp = ColumnType<Date, Date | string, Date | string>

export interface ActiveLeases {
  attempt: number | null
  deadline_at: Timestamp | null
  expires_at: Timestamp | null
  fence: Int8 | null
  held: unknown
  host: string | null
  leased_at: Timestamp | null
  pid: number | null
  run_id: string | null
  slot: string | null
  stage: string | null
  task_id: Int8 | null
  title: string | null
  validity: string | null
  worker_id: string | null
}

export interface Alerts {
  body: string
  channel: Generated<string>
  claimed_until: Timestamp | null
  created_at: Generated<Timestamp>
  handing_over_at: Timestamp | null
  id: Generated<Int8>
  incident_ids: Int8[]
  last_error: string | null
  next_try_at: Generated<Timestamp>
  purpose: Generated<string>
  refused_at: Timestamp | null
  sent_at: Timestamp | null
  subject: string
  transmission: string | null
  tries: Generated<number>
}

export interface Attempts {
  attempt: number
  ended_at: Timestamp
  error: Json | null
  fence: Int8
  final: boolean
  leased_at: Timestamp | null
  outcome: string
  result: Json | null
  task_id: Int8
  worker_id: string | null
}

export interface DatabaseHealth {
  advice: string | null
  name: string | null
  status: string | null
  value: string | null
}

export interface DeadWorkers {
  ended_at: Timestamp | null
  host: string | null
  last_seen: Timestamp | null
  pid: number | null
  reason: string | null
  silent: unknown
  slot: string | null
  stages: string[] | null
  still_holds: Int8 | null
  worker_id: string | null
}

export interface InvariantViolations {
  detail: string | null
  stage: string | null
  task_id: Int8 | null
  violation: string | null
}

export interface OpenIncidents {
  details: Json | null
  id: Int8 | null
  kind: string | null
  open_for: unknown
  opened_at: Timestamp | null
  subject: string | null
  summary: string | null
}

export interface Ready {
  concurrency_key: string | null
  crashes: Generated<number>
  failures: Generated<number>
  lane: number
  position: Generated<Int8>
  stage: string
  task_id: Int8
}

export interface RecentFailures {
  attempt: number | null
  code: string | null
  ended_at: Timestamp | null
  final: boolean | null
  message: string | null
  outcome: string | null
  run_id: string | null
  slot: string | null
  stage: string | null
  task_id: Int8 | null
  title: string | null
  worker_id: string | null
}

export interface RunProgress {
  cancelled: Int8 | null
  dead: Int8 | null
  done: Int8 | null
  open: Int8 | null
  run_id: string | null
  stage: string | null
  submitted: Int8 | null
}

export interface Scheduled {
  crashes: Generated<number>
  express: Generated<boolean>
  failures: Generated<number>
  run_at: Timestamp
  stage: string
  task_id: Int8
}

export interface ScheduleFirings {
  due_at: Timestamp | null
  last_slot: Timestamp | null
  outcome: string
  reason: string | null
  recorded_at: Timestamp
  recorded_by: string
  schedule: string
  scheduler_id: string | null
  slot: Timestamp
  slots: number | null
  task_id: Int8 | null
}

export interface ScheduleHealth {
  anchor: Timestamp | null
  catch_up: string | null
  created_at: Timestamp | null
  cron: string | null
  enabled: boolean | null
  every: unknown
  fired_by: string | null
  jitter: unknown
  key: string | null
  last_at: Timestamp | null
  last_outcome: string | null
  last_reason: string | null
  last_slot: Timestamp | null
  last_task_id: Int8 | null
  last_task_state: string | null
  late_by: unknown
  next_at: Timestamp | null
  next_slot: Timestamp | null
  owner: string | null
  priority: number | null
  problem: string | null
  schedule: string | null
  stage: string | null
  status: string | null
  updated_at: Timestamp | null
  zone: string | null
}

export interface SchedulerHealth {
  host: string | null
  last_seen: Timestamp | null
  pid: number | null
  scheduler_id: string | null
  silent: unknown
  started_at: Timestamp | null
  status: string | null
  ticks: Int8 | null
  version: string | null
}

export interface StageHealth {
  exact: boolean | null
  expected_workers: number | null
  live_workers: Int8 | null
  next_start_at: Timestamp | null
  oldest_ready: unknown
  paused_until: Timestamp | null
  rate_burst: number | null
  rate_per: unknown
  rate_tasks: number | null
  ready: Int8 | null
  running: Int8 | null
  sampled_at: Timestamp | null
  scheduled: Int8 | null
  stage: string | null
  status: string | null
  waiting: Int8 | null
}

export interface Stages {
  backoff_max: Generated<unknown>
  backoff_min: Generated<unknown>
  expected_workers: Generated<number>
  /**
   * How many tasks of one concurrency_key may be ready or running at once.
   */
  key_limit: Generated<number>
  max_attempts: Generated<number>
  /**
   * A task whose worker died this many times while holding it is quarantined (dead).
   */
  max_crashes: Generated<number>
  name: string
  /**
   * Nothing is claimed before this moment; infinity means until resumed.
   */
  paused_until: Timestamp | null
  priority: Generated<number>
  /**
   * So many may start at once after a pause; never more than rate_tasks + rate_burst start within rate_per.
   */
  rate_burst: number | null
  rate_per: unknown
  /**
   * At most so many tasks start per rate_per, on average; null: no limit.
   */
  rate_tasks: number | null
  registered_at: Generated<Timestamp>
  timeout: Generated<unknown>
}

export interface Tasks {
  /**
   * At most stages.key_limit tasks of one key are ready or running at once.
   */
  concurrency_key: string | null
  /**
   * Ids of tasks that must be done first; one that dies or is cancelled cancels this one.
   */
  depends_on: ArrayType<Int8> | null
  id: Generated<Int8>
  /**
   * Unique per stage while the task is unfinished.
   */
  key: string | null
  max_attempts: number | null
  meta: Json | null
  payload: Generated<Json>
  /**
   * 0-9, higher first; null takes the stage's.
   */
  priority: number | null
  /**
   * Not before this moment; null means now.
   */
  run_at: Timestamp | null
  /**
   * Groups the tasks of one pass of a pipeline.
   */
  run_id: string | null
  stage: string
  submitted_at: Generated<Timestamp>
  timeout: unknown
  title: string | null
}

export interface TaskStatus {
  attempt: number | null
  concurrency_key: string | null
  crashes: number | null
  deadline_at: Timestamp | null
  ended_at: Timestamp | null
  fence: Int8 | null
  key: string | null
  last_error: Json | null
  leased_at: Timestamp | null
  max_attempts: number | null
  progress: number | null
  progress_at: Timestamp | null
  progress_message: string | null
  result: Json | null
  run_at: Timestamp | null
  run_id: string | null
  stage: string | null
  state: string | null
  submitted_at: Timestamp | null
  task_id: Int8 | null
  title: string | null
  worker_id: string | null
}

export interface Waiting {
  concurrency_key: string | null
  crashes: Generated<number>
  failures: Generated<number>
  for_parents: boolean
  lane: number
  stage: string
  task_id: Int8
  waiting_since: Timestamp
}

export interface WorkerHealth {
  concurrency: number | null
  drain_asked: boolean | null
  expires_at: Timestamp | null
  host: string | null
  last_seen: Timestamp | null
  loop_at: Timestamp | null
  meta: Json | null
  pid: number | null
  restarts: number | null
  running: number | null
  silent: unknown
  slot: string | null
  stages: string[] | null
  started_at: Timestamp | null
  status: string | null
  up: unknown
  version: string | null
  worker_id: string | null
}

export interface WorkerVersions {
  older_than_schema: boolean | null
  schema: string | null
  slots: string[] | null
  version: string | null
  workers: number | null
}

export interface DB {
  active_leases: ActiveLeases
  alerts: Alerts
  attempts: Attempts
  database_health: DatabaseHealth
  dead_workers: DeadWorkers
  invariant_violations: InvariantViolations
  open_incidents: OpenIncidents
  ready: Ready
  recent_failures: RecentFailures
  run_progress: RunProgress
  schedule_firings: ScheduleFirings
  schedule_health: ScheduleHealth
  scheduled: Scheduled
  scheduler_health: SchedulerHealth
  stage_health: StageHealth
  stages: Stages
  task_status: TaskStatus
  tasks: Tasks
  waiting: Waiting
  worker_health: WorkerHealth
  worker_versions: WorkerVersions
}
