/**
 * Runs: the passes of pipelines, as the counts that submission and settlement leave in the ledger.
 *
 * A run is nothing but the tasks that carry its id. It is over while none of them is open; what a pipeline knows about
 * it besides (target, criteria, results) lives in that pipeline's own schema.
 */
import type { Db } from '../db.ts'
import type { TaskState } from '../task.ts'
import { builder, checkLimit, rowsOf } from './query.ts'

/** One stage of a run. `open` = submitted − done − dead − cancelled. */
export interface RunStageProgress {
  readonly runId: string
  readonly stage: string
  readonly submitted: number
  readonly done: number
  readonly dead: number
  readonly cancelled: number
  readonly open: number
}

/** Progress of one run, a row for each stage it has reached, by name. Empty: no such run. */
export async function runProgress(db: Db, runId: string): Promise<RunStageProgress[]> {
  const { from, count } = await builder()
  const query = from
    .selectFrom('run_progress as p')
    .select([
      'p.run_id as runId',
      'p.stage',
      count('p.submitted').as('submitted'),
      count('p.done').as('done'),
      count('p.dead').as('dead'),
      count('p.cancelled').as('cancelled'),
      count('p.open').as('open'),
    ])
    .where('p.run_id', '=', runId)
    .orderBy('p.stage')
    .$castTo<RunStageProgress>()
  return rowsOf(db, query)
}

/** A run in one line: the sums over its stages. */
export interface RunSummary {
  readonly runId: string
  /** When its first task was submitted; null when retention has dropped it. */
  readonly startedAt: Date | null
  readonly stages: readonly string[]
  readonly submitted: number
  readonly done: number
  readonly dead: number
  readonly cancelled: number
  readonly open: number
}

/** Runs, the newest first; with `open`, only those that still have (or no longer have) unfinished tasks. */
export async function listRuns(
  db: Db,
  filter: { open?: boolean; limit?: number } = {},
): Promise<RunSummary[]> {
  const { from, sql } = await builder()
  const { open } = filter
  const query = from
    .selectFrom('run_progress as p')
    .select([
      'p.run_id as runId',
      sql`array_agg(p.stage order by p.stage)`.as('stages'),
      sql`sum(p.submitted)::float8`.as('submitted'),
      sql`sum(p.done)::float8`.as('done'),
      sql`sum(p.dead)::float8`.as('dead'),
      sql`sum(p.cancelled)::float8`.as('cancelled'),
      sql`sum(p.open)::float8`.as('open'),
    ])
    .select((eb) =>
      eb
        .selectFrom('task_status as t')
        .select('t.submitted_at')
        .whereRef('t.run_id', '=', 'p.run_id')
        .orderBy('t.task_id')
        .limit(1)
        .as('startedAt'),
    )
    .groupBy('p.run_id')
    .$if(open === true, (q) => q.having(sql<boolean>`sum(p.open) > 0`))
    .$if(open === false, (q) => q.having(sql<boolean>`sum(p.open) = 0`))
    .orderBy(sql`"startedAt" desc nulls last`)
    .orderBy('p.run_id')
    .limit(checkLimit(filter.limit ?? 50))
    .$castTo<RunSummary>()
  return rowsOf(db, query)
}

/** A task of a run with what it left behind. */
export interface RunTask {
  readonly taskId: string
  readonly stage: string
  readonly state: TaskState
  readonly title: string | null
  readonly key: string | null
  readonly attempt: number
  readonly submittedAt: Date
  readonly endedAt: Date | null
  /** As JSON text, so that numbers beyond 2^53 stay what they are; null when it left none. */
  readonly resultJson: string | null
  readonly lastError: { readonly code?: string; readonly message?: string } | null
}

/** The tasks of a run in order of submission, after a task id: page by page, so that no snapshot is held for long. */
export async function listRunTasks(
  db: Db,
  runId: string,
  page: { afterId?: string; limit?: number } = {},
): Promise<RunTask[]> {
  const { from, sql } = await builder()
  const query = from
    .selectFrom('task_status as t')
    .select([
      't.task_id as taskId',
      't.stage',
      't.state',
      't.title',
      't.key',
      't.attempt',
      't.submitted_at as submittedAt',
      't.ended_at as endedAt',
      sql`t.result::text`.as('resultJson'),
      't.last_error as lastError',
    ])
    .where('t.run_id', '=', runId)
    .where('t.task_id', '>', page.afterId ?? '0')
    .orderBy('t.task_id')
    .limit(checkLimit(page.limit ?? 1_000))
    .$castTo<RunTask>()
  return rowsOf(db, query)
}
