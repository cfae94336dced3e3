/**
 * The rows of a run's result: for a run of the lead pipeline its leads, for any other its tasks.
 *
 * Refuses a run that nobody knows. Rows are read while they are written, page by page. Where they go is
 * commands/export.ts.
 */
import { Readable } from 'node:stream'
import { listRunTasks, runProgress } from '@leasehold/queue'
import { stringify } from 'csv-stringify'
import type { Pool } from 'pg'
import { parseExactly } from './exact-json.ts'
import { runNotFound } from './failure.ts'
import { openLeads, readLeadRun } from './pipeline.ts'

/** A result: its rows as they are read, and its CSV. */
export interface RunRows {
  /** What the rows are, for people: `leads`, `tasks`. */
  readonly kind: string
  readonly rows: AsyncIterable<object>
  /** The lines of a CSV file of these rows; no cell can become a formula in a spreadsheet. */
  toCsv(rows: AsyncIterable<object>): AsyncIterable<string | Buffer>
}

/** Opens the result of a run; `tasks` asks for its tasks in any case. Throws CommandError 'RUN_NOT_FOUND'. */
export async function openRunRows(pool: Pool, runId: string, tasks: boolean): Promise<RunRows> {
  if (!tasks && (await readLeadRun(pool, runId)) !== null) {
    const { rows, toCsv } = await openLeads(pool, runId)
    return { kind: 'leads', rows, toCsv: toCsv as RunRows['toCsv'] }
  }
  if ((await runProgress(pool, runId)).length === 0) throw runNotFound(runId)
  return { kind: 'tasks', rows: taskRows(pool, runId), toCsv: tasksCsv }
}

const columns = [
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

const pageSize = 1_000

async function* taskRows(
  pool: Pool,
  runId: string,
): AsyncGenerator<Record<(typeof columns)[number], unknown>> {
  let afterId = '0'
  for (;;) {
    const tasks = await listRunTasks(pool, runId, { afterId, limit: pageSize })
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
    if (tasks.length < pageSize) return
    afterId = tasks.at(-1)?.taskId ?? afterId
  }
}

function tasksCsv(rows: AsyncIterable<object>): AsyncIterable<Buffer> {
  const cast = { date: (date: Date) => date.toISOString() }
  const format = stringify({ header: true, columns: [...columns], escape_formulas: true, cast })
  const source = Readable.from(rows)
  source.on('error', (error) => format.destroy(error))
  return source.pipe(format)
}
