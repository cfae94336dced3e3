/**
 * The rows of a run's result: for a run of the lead pipeline its leads, for any other its tasks.
 *
 * Refuses a run that nobody knows. How rows are written is commands/export.ts.
 */
import { listRunTasks, runProgress } from '@leasehold/queue'
import type { Pool } from 'pg'
import { unknownRun } from './commands/runs.ts'
import { parseExactly } from './exact-json.ts'

/** Values by column. */
export type Row = Readonly<Record<string, unknown>>

/** A result: its columns in order, and its rows as they are read. */
export interface RunRows {
  /** What the rows are, for people: `leads`, `tasks`. */
  readonly kind: string
  readonly columns: readonly string[]
  readonly rows: AsyncIterable<Row>
}

/** Opens the result of a run. Throws CommandError 'RUN_NOT_FOUND'. */
export async function openRunRows(pool: Pool, runId: string, tasks: boolean): Promise<RunRows> {
  void tasks
  if ((await runProgress(pool, runId)).length === 0) throw unknownRun(runId)
  return { kind: 'tasks', columns: taskColumns, rows: taskRows(pool, runId) }
}

const taskColumns = [
  'task_id',
  'stage',
  'state',
  'title',
  'key',
  'attempt',
  'submitted_at',
  'ended_at',
  'result',
  'error',
] as const

async function* taskRows(pool: Pool, runId: string): AsyncGenerator<Row> {
  let afterId = '0'
  for (;;) {
    const tasks = await listRunTasks(pool, runId, { afterId })
    for (const task of tasks) {
      yield {
        task_id: task.taskId,
        stage: task.stage,
        state: task.state,
        title: task.title,
        key: task.key,
        attempt: task.attempt,
        submitted_at: task.submittedAt,
        ended_at: task.endedAt,
        result: task.resultJson === null ? null : parseExactly(task.resultJson),
        error: task.lastError?.message ?? null,
      }
    }
    if (tasks.length < 1_000) return
    afterId = tasks.at(-1)?.taskId ?? afterId
  }
}
