/**
 * Verbs and look-ups about one task or stage, for operators and for submitters who wait for a result.
 *
 * Each verb calls one SQL function and restates nothing. Filters and lists are in reads/.
 */
import type { Db } from './db.ts'
import { TaskFailedError, TaskNotFoundError, ValueRefusedError, WaitTimeoutError } from './errors.ts'
import { parseExact } from './exact-json.ts'
import { translating } from './translate.ts'

/** Where a task stands. The first four are unfinished. */
export type TaskState = 'ready' | 'running' | 'scheduled' | 'waiting' | 'done' | 'dead' | 'cancelled'

/** A row of the view task_status. Absent facts are null. */
export interface TaskStatus {
  taskId: string
  stage: string
  state: TaskState
  title: string | null
  key: string | null
  runId: string | null
  concurrencyKey: string | null
  submittedAt: Date
  runAt: Date | null
  attempt: number
  maxAttempts: number
  crashes: number
  workerId: string | null
  fence: string | null
  leasedAt: Date | null
  deadlineAt: Date | null
  endedAt: Date | null
  /** Integers that a number cannot hold are bigint, as everywhere in payloads and results. */
  result: unknown
  lastError: { code?: string; message?: string } | null
  progress: number | null
  progressMessage: string | null
  progressAt: Date | null
}

/** Refuses what is no id, so that no number beyond 2^53 is ever silently rounded. */
export function checkId(id: unknown): string {
  if (typeof id === 'string' && /^\d{1,19}$/.test(id) && BigInt(id) < 2n ** 63n) return id
  throw new ValueRefusedError(
    '22P02',
    null,
    `'${String(id).slice(0, 50)}' is no task id; ids are strings of digits`,
  )
}

/** Looks a task up; null when there is none (or retention dropped it). */
export async function getTask(db: Db, id: string): Promise<TaskStatus | null> {
  const { rows } = await db.query<Omit<TaskStatus, 'result'> & { result: string | null }>({
    text: `select task_id::text as "taskId", stage, state, title, key, run_id as "runId", concurrency_key as "concurrencyKey",
        submitted_at as "submittedAt", run_at as "runAt", attempt, max_attempts as "maxAttempts", crashes,
        worker_id as "workerId", fence::text, leased_at as "leasedAt", deadline_at as "deadlineAt", ended_at as "endedAt",
        result::text, last_error as "lastError", progress, progress_message as "progressMessage", progress_at as "progressAt"
      from leasehold.task_status where task_id = $1`,
    values: [checkId(id)],
  })
  const [row] = rows
  return row === undefined ? null : { ...row, result: row.result === null ? null : parseExact(row.result) }
}

/**
 * Waits until a task is done and returns its result (null when it left none).
 *
 * Polls, at first every 20 ms, later every second. Throws {@link TaskFailedError} when the task ends dead or cancelled,
 * {@link WaitTimeoutError} after `timeoutMs` (default 30 s), {@link TaskNotFoundError}, and the signal's reason.
 * Do not call it inside the transaction that submitted the task: the task exists for others only after the commit.
 */
export async function waitForResult(
  db: Db,
  id: string,
  options: { timeoutMs?: number; signal?: AbortSignal } = {},
): Promise<unknown> {
  const { timeoutMs = 30_000, signal } = options
  const started = performance.now()
  for (let pauseMs = 20; ; pauseMs = Math.min(pauseMs * 1.5, 1000)) {
    signal?.throwIfAborted()
    const task = await getTask(db, id)
    if (task === null) throw new TaskNotFoundError(id)
    if (task.state === 'done') return task.result
    if (task.state === 'dead' || task.state === 'cancelled')
      throw new TaskFailedError(id, task.state, task.lastError)
    const leftMs = timeoutMs - (performance.now() - started)
    if (leftMs <= 0) throw new WaitTimeoutError(id, timeoutMs)
    await pause(Math.min(pauseMs, leftMs), signal)
  }
}

function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, ms)
    signal?.addEventListener('abort', done, { once: true })
  })
}

/** The one reason that holds a task back, and what to do about it. */
export interface Explanation {
  state: TaskState | 'unknown'
  reasonCode: string
  reason: string
  nextStep: string
  details: unknown
}

/** Says why a task is not running (or that it is, or how it ended). An unknown id is answered, not thrown. */
export async function explainTask(db: Db, id: string): Promise<Explanation> {
  const { rows } = await db.query<Explanation & { state: string }>(
    `select state, reason_code as "reasonCode", reason, next_step as "nextStep", details from leasehold.explain_task($1)`,
    [checkId(id)],
  )
  return rows[0] as Explanation
}

async function callForBoolean(db: Db, call: string, values: unknown[]): Promise<boolean> {
  const { rows } = await translating(() => db.query<{ moved: boolean }>(`select ${call} as moved`, values))
  return rows[0]!.moved
}

/** Ends a task in any state; a running one loses its lease. False when it had ended. Throws {@link TaskNotFoundError}. */
export async function cancelTask(db: Db, id: string, reason?: string): Promise<boolean> {
  return callForBoolean(db, 'leasehold.cancel_task($1, $2)', [checkId(id), reason ?? null])
}

/** Gives a dead or cancelled task all its attempts again. False when it is unfinished or done. */
export async function retryTask(db: Db, id: string): Promise<boolean> {
  return callForBoolean(db, 'leasehold.retry_task($1)', [checkId(id)])
}

/** Starts a task ahead of all others. False when it runs or has ended. Throws {@link TaskHeldBackError}. */
export async function runNow(db: Db, id: string): Promise<boolean> {
  return callForBoolean(db, 'leasehold.run_now($1)', [checkId(id)])
}

/** Nothing of the stage is claimed until then (without a date: until it is resumed). Throws {@link UnknownStageError}. */
export async function pauseStage(db: Db, stage: string, until?: Date): Promise<void> {
  await translating(() => db.query('select leasehold.pause_stage($1, $2)', [stage, until ?? null]))
}

/** Lets a paused stage go on. Throws {@link UnknownStageError}. */
export async function resumeStage(db: Db, stage: string): Promise<void> {
  await translating(() => db.query('select leasehold.resume_stage($1)', [stage]))
}

/** Asks the live worker of a slot to drain and leave. False when none lives. */
export function drainSlot(db: Db, slot: string): Promise<boolean> {
  return callForBoolean(db, 'leasehold.drain_slot($1)', [slot])
}

/** One stored log line. `line` grows within a task. */
export interface LogLine {
  line: string
  at: Date
  level: string
  message: string
  fields: unknown
  fence: string
}

/** The stored log lines of a task, oldest first, after a line number, at most `limit` (default 1000). */
export async function taskLogs(
  db: Db,
  id: string,
  options: { afterLine?: string; limit?: number } = {},
): Promise<LogLine[]> {
  const limit = options.limit ?? 1000
  if (!(Number.isInteger(limit) && limit >= 0)) {
    throw new ValueRefusedError('22023', null, `limit must be a whole number of lines, not ${limit}`)
  }
  const { rows } = await db.query<LogLine & { line: string }>(
    `select line::text, at, level, message, fields, fence::text from leasehold.task_logs l
     where task_id = $1 and line > $2 order by l.line limit $3`,
    [checkId(id), checkId(options.afterLine ?? '0'), Math.min(limit, 100_000)],
  )
  return rows
}
