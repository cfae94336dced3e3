/**
 * Lists of tasks by stage, state, run and key, newest first, and what a single task's page shows besides its status.
 *
 * Invariant: a list by state starts from the ids in that state and does not walk millions of other tasks to find them; where
 * no index leads to what is asked for, the newest million ids are walked and no more ({@link longestWalk}).
 * Payloads are not listed: observers may not read them, and `readPayload` says so by null. One task is ../task.ts.
 */
import type { RawBuilder } from 'kysely'
import type { Db } from '../db.ts'
import type { TaskState } from '../task.ts'
import { builder, checkLimit, mayRead, rowsOf } from './query.ts'

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
  /** Where no index leads to the tasks: how many ids are looked at; default {@link longestWalk}. */
  readonly withinIds?: number
}

/** How many ids below `beforeId` (or the newest) are looked at where no index leads to the tasks asked for. */
export const longestWalk = 1_000_000

/**
 * Whether a list may end early because it looked at {@link longestWalk} ids only: by stage, by key, and cancelled tasks.
 * A shorter list than asked for then means: there may be older ones, ask again with `beforeId`.
 */
export function isWalk({ stage, state, runId, key }: TaskFilter): boolean {
  if (runId !== undefined) return false
  if (state === undefined) return stage !== undefined || key !== undefined
  if (state === 'done') return stage !== undefined || key !== undefined
  return state === 'cancelled' || (key !== undefined && state === 'dead')
}

/** Tasks that match, the newest first. Empty when none does; an unknown stage or run is not an error here. See {@link isWalk}. */
export async function listTasks(db: Db, filter: TaskFilter = {}): Promise<TaskSummary[]> {
  const { stage, state, runId, key, beforeId } = filter
  const limit = checkLimit(filter.limit ?? 50)
  const { from } = await builder()
  const lowest = isWalk(filter) ? await endOfWalk(db, beforeId, filter.withinIds ?? longestWalk) : null
  const among = (await idsInState(db, filter, limit, lowest)) ?? (await walked(filter, limit, lowest))
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
    .$if(among !== null, (q) => q.where(among!))
    .$if(state !== undefined, (q) => q.where('t.state', '=', state!))
    .$if(stage !== undefined, (q) => q.where('t.stage', '=', stage!))
    .$if(runId !== undefined, (q) => q.where('t.run_id', '=', runId!))
    .$if(key !== undefined, (q) => q.where('t.key', '=', key!))
    .$if(beforeId !== undefined, (q) => q.where('t.task_id', '<', beforeId!))
    .orderBy('t.task_id', 'desc')
    .limit(limit)
    .$castTo<TaskSummary>()
  return rowsOf(db, query)
}

/**
 * The ids a state may be found under, without walking the tasks of other states: from its own table, from the leases, or
 * from what ended that way. The view's state decides in the end: what died may have been reopened.
 * Null where the other filters lead to few tasks anyway, or where this role may not look.
 */
async function idsInState(
  db: Db,
  filter: TaskFilter,
  limit: number,
  lowest: string | null,
): Promise<RawBuilder<boolean> | null> {
  const { from, sql } = await builder()
  const { stage, state, runId, key, beforeId } = filter
  if (state === undefined || runId !== undefined || key !== undefined) return null
  // The planner turns this into an inner join that starts at the leases.
  if (state === 'running') return sql<boolean>`t.worker_id is not null`
  const before = beforeId ?? '9223372036854775807'
  if (isTable(state)) {
    if (!(await mayRead(db, 'leasehold', state))) return null
    const ids = from
      .selectFrom(state)
      .select('task_id')
      .where('task_id', '<', before)
      .$if(stage !== undefined, (q) => q.where('stage', '=', stage!))
      .orderBy('task_id', 'desc')
      .limit(limit)
    return sql<boolean>`t.task_id = any (array(${ids}))`
  }
  if (state === 'done' && stage !== undefined) return null
  const ended = from
    .selectFrom('attempts')
    .select('task_id')
    .where('outcome', '=', state)
    .where('task_id', '<', before)
    .$if(lowest !== null, (q) => q.where('task_id', '>=', lowest!))
    // Done is done for ever, so a page of these is a page of tasks.
    .$if(state === 'done', (q) => q.orderBy('task_id', 'desc').limit(limit))
  return sql<boolean>`t.task_id = any (array(${ended}))`
}

/** The lowest id of a walk that begins below `beforeId`. */
async function endOfWalk(db: Db, beforeId: string | undefined, length: number): Promise<string> {
  const { rows } = await db.query<{ lowest: string }>(
    `select (least($1::bigint, (select s.task_id + 1 from leasehold.task_status s order by s.task_id desc limit 1))
       - $2::bigint)::text as lowest`,
    [beforeId ?? '9223372036854775807', length],
  )
  return rows[0]!.lowest
}

/** The ids of a stage or a key in a stretch of the primary key, from the newest down. */
async function walked(
  filter: TaskFilter,
  limit: number,
  lowest: string | null,
): Promise<RawBuilder<boolean> | null> {
  if (lowest === null) return null
  const { from, sql } = await builder()
  const { stage, state, key, beforeId } = filter
  const ids = from
    .selectFrom('task_status as s')
    .select('s.task_id')
    .where('s.task_id', '>=', lowest)
    .$if(beforeId !== undefined, (q) => q.where('s.task_id', '<', beforeId!))
    .$if(stage !== undefined, (q) => q.where('s.stage', '=', stage!))
    .$if(key !== undefined, (q) => q.where('s.key', '=', key!))
    .$if(state !== undefined, (q) => q.where('s.state', '=', state!))
    .orderBy('s.task_id', 'desc')
    .limit(limit)
  return sql<boolean>`t.task_id = any (array(${ids}))`
}

function isTable(state: TaskState): state is 'ready' | 'scheduled' | 'waiting' {
  return state === 'ready' || state === 'scheduled' || state === 'waiting'
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
  const { from } = await builder()
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
  const { from, sql } = await builder()
  if (!(await mayRead(db, 'leasehold', 'tasks'))) return null
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
