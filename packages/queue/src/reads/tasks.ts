/**
 * Lists of tasks by stage, state, run and key, newest first, and what a single task's page shows besides its status.
 *
 * Invariant: a list starts from the small table of its state where there is one, so that it does not walk millions of
 * ended tasks to find the few that run. Lists of `done` and `cancelled` tasks walk from the newest backwards.
 * Payloads are not listed: observers may not read them, and `readPayload` says so by null. One task is ../task.ts.
 */
import { type SelectQueryBuilder, sql } from 'kysely'
import type { Db } from '../db.ts'
import type { TaskState } from '../task.ts'
import { checkLimit, from, rowsOf } from './query.ts'
import type { DB } from './tables.ts'

/** A task in a list. Absent facts are null. */
export interface TaskSummary {
  readonly taskId: string
  readonly stage: string
  readonly state: TaskState
  readonly title: string | null
  readonly key: string | null
  readonly runId: string | null
  readonly submittedAt: Date
  readonly runAt: Date | null
  readonly attempt: number
  readonly maxAttempts: number
  readonly crashes: number
  readonly workerId: string | null
  readonly leasedAt: Date | null
  readonly deadlineAt: Date | null
  readonly endedAt: Date | null
  /** 0–1, null when the handler has not said. */
  readonly progress: number | null
  readonly progressMessage: string | null
  readonly lastError: { readonly code?: string; readonly message?: string } | null
}

/** Which tasks; what is left out does not restrict. `beforeId` goes on where an earlier list ended. */
export interface TaskFilter {
  readonly stage?: string
  readonly state?: TaskState
  readonly runId?: string
  readonly key?: string
  readonly beforeId?: string
  /** 1–10,000; default 50. */
  readonly limit?: number
}

type TaskQuery<O> = SelectQueryBuilder<DB & { t: DB['task_status'] }, 't', O>

/** Tasks that match, the newest first. Empty when none does; an unknown stage or run is not an error here. */
export async function listTasks(db: Db, filter: TaskFilter = {}): Promise<TaskSummary[]> {
  const { stage, state, runId, key, beforeId } = filter
  const direct = state !== undefined && isTable(state) && (await mayRead(db, state))
  const query = from
    .selectFrom('task_status as t')
    .select([
      't.task_id as taskId',
      't.stage',
      't.state',
      't.title',
      't.key',
      't.run_id as runId',
      't.submitted_at as submittedAt',
      't.run_at as runAt',
      't.attempt',
      't.max_attempts as maxAttempts',
      't.crashes',
      't.worker_id as workerId',
      't.leased_at as leasedAt',
      't.deadline_at as deadlineAt',
      't.ended_at as endedAt',
      't.progress',
      't.progress_message as progressMessage',
      't.last_error as lastError',
    ])
    .$if(state !== undefined, (q) => inState(q, state!, stage, direct))
    .$if(stage !== undefined, (q) => q.where('t.stage', '=', stage!))
    .$if(runId !== undefined, (q) => q.where('t.run_id', '=', runId!))
    .$if(key !== undefined, (q) => q.where('t.key', '=', key!))
    .$if(beforeId !== undefined, (q) => q.where('t.task_id', '<', beforeId!))
    .orderBy('t.task_id', 'desc')
    .limit(checkLimit(filter.limit ?? 50))
    .$castTo<TaskSummary>()
  return rowsOf(db, query)
}

/**
 * Narrows to a state by way of its own table, then asks the view: a task may be found in two tables for a moment.
 * `direct` is false for roles that may not read the state tables; for them the view alone decides, more slowly.
 */
function inState<O>(
  query: TaskQuery<O>,
  state: TaskState,
  stage: string | undefined,
  direct: boolean,
): TaskQuery<O> {
  const narrowed = query.where('t.state', '=', state)
  // The planner turns this into an inner join that starts at the leases.
  if (state === 'running') return narrowed.where('t.worker_id', 'is not', null)
  // By the index of failed attempts; a task that was reopened since is left out by the view's state.
  if (state === 'dead') {
    const died = from.selectFrom('attempts').select('task_id').where('outcome', '=', 'dead')
    return narrowed.where('t.task_id', 'in', died)
  }
  if (!direct || !isTable(state)) return narrowed
  const ids = from
    .selectFrom(state)
    .select('task_id')
    .$if(stage !== undefined, (q) => q.where('stage', '=', stage!))
  return narrowed.where('t.task_id', 'in', ids)
}

function isTable(state: TaskState): state is 'ready' | 'scheduled' | 'waiting' {
  return state === 'ready' || state === 'scheduled' || state === 'waiting'
}

/** Asked before reading: inside a caller's transaction a refusal would abort all of it. */
async function mayRead(db: Db, table: 'ready' | 'scheduled' | 'waiting' | 'tasks'): Promise<boolean> {
  const { rows } = await db.query<{ may: boolean }>(
    "select pg_catalog.has_table_privilege($1, 'select') as may",
    [`leasehold.${table}`],
  )
  return rows[0]?.may === true
}

/** One ended lease of a task (or its reopening by an operator). */
export interface AttemptRecord {
  readonly fence: string
  /** Counts failures and the last run; releases and snoozes give theirs back. */
  readonly attempt: number
  readonly outcome: 'done' | 'dead' | 'cancelled' | 'retry' | 'released' | 'snoozed' | 'lost' | 'reopened'
  readonly final: boolean
  readonly workerId: string | null
  readonly leasedAt: Date | null
  readonly endedAt: Date
  readonly error: { readonly code?: string; readonly message?: string } | null
}

/** The newest attempts of a task that have ended, oldest first. Empty while its first one has not. */
export async function listAttempts(db: Db, taskId: string, limit = 100): Promise<AttemptRecord[]> {
  const query = from
    .selectFrom('attempts as a')
    .select([
      'a.fence',
      'a.attempt',
      'a.outcome',
      'a.final',
      'a.worker_id as workerId',
      'a.leased_at as leasedAt',
      'a.ended_at as endedAt',
      'a.error',
    ])
    .where('a.task_id', '=', taskId)
    .orderBy('a.fence', 'desc')
    .limit(checkLimit(limit))
    .$castTo<AttemptRecord>()
  return (await rowsOf(db, query)).toReversed()
}

/** What was submitted with a task and is not part of its status. */
export interface TaskPayload {
  /** As JSON text, so that numbers beyond 2^53 stay what they are. */
  readonly payloadJson: string
  readonly metaJson: string | null
  /** Null: the stage's. */
  readonly priority: number | null
  readonly timeoutMs: number | null
  /** Its parents in any state; empty without. */
  readonly dependsOn: readonly string[]
}

/** What was submitted with a task; null when there is no such task, or this role may not read payloads. */
export async function readPayload(db: Db, taskId: string): Promise<TaskPayload | null> {
  if (!(await mayRead(db, 'tasks'))) return null
  const query = from
    .selectFrom('tasks as t')
    .select([
      sql`t.payload::text`.as('payloadJson'),
      sql`t.meta::text`.as('metaJson'),
      't.priority',
      sql`extract(epoch from t.timeout)::float8 * 1000`.as('timeoutMs'),
      sql`coalesce(t.depends_on, '{}')::text[]`.as('dependsOn'),
    ])
    .where('t.id', '=', taskId)
    .$castTo<TaskPayload>()
  return (await rowsOf(db, query))[0] ?? null
}
