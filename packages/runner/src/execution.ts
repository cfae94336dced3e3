/**
 * One attempt: a claimed task, its handler's context, and how it ended.
 *
 * Invariant: an execution ends exactly once (`ended` is set once), whatever the handler does later. What happens to the
 * task then is the database's decision; here an ending is only described. The loop that starts executions is loop.ts.
 */
import {
  type ClaimedRow,
  cleanJson,
  cleanText,
  type Db,
  describeError,
  type Ending,
  inTransaction,
  issuesOf,
  LeaseLostError,
  type Note,
  type Outcome,
  readCheckpoint,
  settle,
  type Settled,
  type SubmitOptions,
  taskFields,
  type TaskContext,
  type TaskFacts,
  type TaskLog,
  type Tx,
  writeNotes,
} from '@leasehold/queue'
import type { AnyStage } from './options.ts'

/** What executions need of their runner. */
export interface Surroundings {
  readonly workerId: string
  readonly handlerDb: Db
  /** Called once, when the execution has an ending to be settled (or was settled in its own transaction). */
  ended(execution: Execution): void
  /** Called when notes of this execution wait to be sent. */
  noted(execution: Execution): void
  /** A handler came back after its execution had ended without it. */
  late(execution: Execution): void
}

/** How an execution ended, for the loop. `plain`: done without a result, the hot path. `own`: settled by the handler. */
export type End = 'plain' | 'own' | { ending: Ending; children: Record<string, unknown>[] | null }

const maxLogLines = 1000
const maxLogCharacters = 256 * 1024
const settled: Settled = Object.freeze({ settled: true })

/** Why a signal was aborted; handlers see it as `signal.reason`. */
export class AttemptAborted extends Error {
  readonly why: 'timeout' | 'cancelled' | 'lease-lost' | 'drain'

  constructor(why: AttemptAborted['why'], message: string) {
    super(message)
    this.name = 'AttemptAborted'
    this.why = why
  }
}

/** One attempt on one task. */
export class Execution implements TaskContext {
  readonly taskId: string
  readonly fence: string
  readonly attempt: number
  readonly stage: AnyStage
  readonly deadlineAt: number
  /** Set once. */
  end: End | null = null
  /** Its place in the runner has been given back. */
  freed = false
  /** The handler has returned or thrown. */
  returned = false
  notes: Note[] | null = null
  latestProgress: Note | null = null

  private readonly around: Surroundings
  private readonly extra: string | null
  private readonly payloadText: string
  private parsedPayload: unknown
  private facts: TaskFacts | null = null
  private controller: AbortController | null = null
  private abortReason: AttemptAborted | null = null
  private children: Record<string, unknown>[] | null = null
  private logLines = 0
  private logCharacters = 0
  private logger: TaskLog | null = null

  constructor(row: ClaimedRow, stage: AnyStage, timeoutMs: number, around: Surroundings) {
    this.taskId = row[0]
    this.fence = row[1]
    this.attempt = row[3]
    this.payloadText = row[4]
    this.extra = row[5]
    this.stage = stage
    this.around = around
    this.deadlineAt = performance.now() + this.timeoutOf(timeoutMs)
  }

  private timeoutOf(stageTimeoutMs: number): number {
    if (this.extra === null) return stageTimeoutMs
    return (JSON.parse(this.extra) as { timeout_ms?: number }).timeout_ms ?? stageTimeoutMs
  }

  /** Runs the handler. Never rejects. */
  async run(): Promise<void> {
    try {
      const value: unknown = JSON.parse(this.payloadText)
      const parsed = this.stage.payload.safeParse(value)
      if (!parsed.success) {
        const issues = issuesOf(parsed.error)
        const said = issues.map((i) => `${i.path || '(root)'}: ${i.message}`).join('; ')
        this.fail({ code: 'payload_invalid', message: `the payload does not fit its stage: ${said}`, issues }, false)
        return
      }
      this.parsedPayload = parsed.data
      const outcome = await this.stage.run(this as TaskContext)
      if (this.end === null) this.conclude(outcome as Outcome | Settled | void)
    } catch (error) {
      if (this.end === null) this.concludeThrown(error)
    } finally {
      this.returned = true
      if (this.end !== null && this.abandoned) this.around.late(this)
    }
  }

  private conclude(outcome: Outcome | Settled | void): void {
    if (outcome === undefined || outcome === null) {
      return this.children === null ? this.finish('plain') : this.finishAs({ outcome: 'done' })
    }
    const o = outcome as Outcome
    if (o.outcome === 'done') {
      if (o.result === undefined) return this.conclude(undefined)
      const checked = this.stage.result?.safeParse(o.result)
      if (checked && !checked.success) {
        const said = issuesOf(checked.error).map((i) => `${i.path || '(root)'}: ${i.message}`).join('; ')
        return this.fail({ code: 'result_invalid', message: `the handler's result does not fit its stage: ${said}` }, true)
      }
      return this.finishAs({ outcome: 'done', result: checked ? checked.data : o.result })
    }
    const ending = endingOf(o)
    if (ending !== null) return this.finishAs(ending)
    this.fail(
      {
        code: 'outcome_unknown',
        message: `the handler returned ${cleanText(cleanJson(outcome, 200), 200)}; return nothing or { outcome: 'done' | 'retry' | 'dead' | 'snooze' | 'cancel', … }`,
      },
      false,
    )
  }

  private concludeThrown(error: unknown): void {
    if (this.abortReason?.why === 'drain') return this.finishAs({ outcome: 'release' })
    if (this.abortReason?.why === 'timeout') return this.fail(timeoutError(this.abortReason), true)
    const described = describeError(error)
    this.fail(described, (error as { retryable?: unknown } | null)?.retryable !== false)
  }

  private fail(error: object, retryable: boolean): void {
    this.finishAs({ outcome: 'fail', error, retryable })
  }

  private finishAs(ending: Omit<Ending, 'task_id' | 'fence'>): void {
    this.finish({
      ending: { task_id: this.taskId, fence: this.fence, ...ending },
      children: ending.outcome === 'done' ? this.children : null,
    })
  }

  private finish(end: End): void {
    this.end = end
    this.around.ended(this)
  }

  /** The execution ended although its handler had not returned. */
  abandoned = false

  /** Ends it now and tells the handler; the attempt fails (timeout), is given back (drain) or is simply over (lost). */
  abort(reason: AttemptAborted): void {
    if (this.end !== null) return
    this.abortReason = reason
    this.controller?.abort(reason)
    if (this.end !== null) return // the handler's own reaction was synchronous
    this.abandoned = !this.returned
    if (reason.why === 'timeout') this.fail(timeoutError(reason), true)
    else if (reason.why === 'cancelled') this.finish('own')
    else this.finishAs({ outcome: 'release' })
  }

  // ---------------------------------------------------------------------------------- what the handler sees

  get payload(): unknown {
    return this.parsedPayload
  }

  get task(): TaskFacts {
    return (this.facts ??= factsOf(this.taskId, this.stage.name, this.extra))
  }

  get signal(): AbortSignal {
    if (this.controller === null) {
      this.controller = new AbortController()
      if (this.abortReason !== null) this.controller.abort(this.abortReason)
    }
    return this.controller.signal
  }

  get db(): Db {
    return this.around.handlerDb
  }

  get log(): TaskLog {
    return (this.logger ??= {
      debug: (message, fields) => this.writeLog('debug', message, fields),
      info: (message, fields) => this.writeLog('info', message, fields),
      warn: (message, fields) => this.writeLog('warn', message, fields),
      error: (message, fields) => this.writeLog('error', message, fields),
    })
  }

  private writeLog(level: string, message: string, fields?: object): void {
    if (this.end !== null || this.logLines > maxLogLines) return
    const text = cleanText(String(message), 8192)
    const extra = fields === undefined ? undefined : (JSON.parse(cleanJson(fields, 16_384)) as unknown)
    this.logLines += 1
    this.logCharacters += text.length + (fields === undefined ? 0 : cleanJson(fields, 16_384).length)
    const full = this.logLines > maxLogLines || this.logCharacters > maxLogCharacters
    if (full) this.logLines = maxLogLines + 1
    const notes = (this.notes ??= [])
    notes.push({
      task_id: this.taskId,
      fence: this.fence,
      kind: 'log',
      level: full ? 'warn' : level,
      message: full ? 'the log of this attempt is full; further lines are dropped' : text,
      ...(extra === undefined || full ? {} : { fields: extra }),
      at_ms_ago: performance.now(),
    })
    this.around.noted(this)
  }

  progress(fraction: number | null, message?: string): void {
    if (this.end !== null) return
    const within = fraction === null || !Number.isFinite(fraction) ? null : Math.min(1, Math.max(0, fraction))
    this.latestProgress = {
      task_id: this.taskId,
      fence: this.fence,
      kind: 'progress',
      fraction: within,
      message: message === undefined ? null : cleanText(message, 500),
    }
    this.around.noted(this)
  }

  async checkpoint<T>(name: string, work: () => Promise<T>): Promise<T> {
    const stored = await readCheckpoint(this.around.handlerDb, this.taskId, name)
    if (stored !== null) return JSON.parse(stored) as T
    const text = cleanJson(await work(), 10_000_000)
    const note = `[{"task_id":"${this.taskId}","fence":"${this.fence}","kind":"checkpoint","name":${JSON.stringify(name)},"value":${text}}]`
    if (!(await writeNotes(this.around.handlerDb, this.around.workerId, note))) throw this.leaseLost()
    return JSON.parse(text) as T
  }

  submit(stage: AnyStage | string, payload: unknown, options: SubmitOptions = {}): void {
    const children = (this.children ??= [])
    children.push({ parent_id: this.taskId, ...taskFields(stage as never, payload, options) })
  }

  async transaction(effects: (tx: Tx) => Promise<Outcome | void>): Promise<Settled> {
    if (this.end !== null) throw this.leaseLost()
    await inTransaction(this.around.handlerDb, async (tx) => {
      const outcome = (await effects(tx)) ?? ({ outcome: 'done' } as Outcome)
      const ending = endingOf(outcome)
      if (ending === null) throw new TypeError(`unknown outcome ${cleanText(cleanJson(outcome, 200), 200)}`)
      const text = cleanJson([{ task_id: this.taskId, fence: this.fence, ...ending }])
      const children = ending.outcome === 'done' && this.children !== null ? JSON.stringify(this.children) : null
      if (this.end !== null || !(await settle(tx, this.around.workerId, text, children))) throw this.leaseLost()
    })
    if (this.end === null) this.finish('own')
    return settled
  }

  private leaseLost(): LeaseLostError {
    return new LeaseLostError({ taskId: this.taskId, fence: this.fence, workerId: this.around.workerId })
  }
}

function endingOf(o: Outcome): Omit<Ending, 'task_id' | 'fence'> | null {
  switch (o.outcome) {
    case 'done':
      return { outcome: 'done', ...(o.result === undefined ? {} : { result: o.result }) }
    case 'retry':
      return {
        outcome: 'fail',
        error: { code: 'retry', message: cleanText(String(o.reason), 4000) },
        retryable: true,
        ...(o.afterMs === undefined ? {} : { after_ms: Math.max(0, Math.round(o.afterMs)) }),
      }
    case 'dead':
      return { outcome: 'fail', error: { code: 'dead', message: cleanText(String(o.reason), 4000) }, retryable: false }
    case 'snooze':
      return {
        outcome: 'snooze',
        after_ms: Math.max(0, Math.round(o.afterMs)),
        ...(o.reason === undefined ? {} : { error: { code: 'snoozed', message: cleanText(o.reason, 4000) } }),
      }
    case 'cancel':
      return { outcome: 'cancel', error: { code: 'cancelled', message: cleanText(String(o.reason), 4000) } }
    default:
      return null
  }
}

function timeoutError(reason: AttemptAborted): object {
  return { code: 'timeout', message: reason.message }
}

function factsOf(id: string, stage: string, extra: string | null): TaskFacts {
  const x = (extra === null ? {} : JSON.parse(extra)) as Record<string, unknown>
  return {
    id,
    stage,
    crashes: (x['crashes'] as number | undefined) ?? 0,
    ...(x['run_id'] === undefined ? {} : { runId: x['run_id'] as string }),
    ...(x['key'] === undefined ? {} : { key: x['key'] as string }),
    ...(x['title'] === undefined ? {} : { title: x['title'] as string }),
    ...(x['priority'] === undefined ? {} : { priority: x['priority'] as number }),
    ...(x['concurrency_key'] === undefined ? {} : { concurrencyKey: x['concurrency_key'] as string }),
    ...(x['meta'] === undefined ? {} : { meta: x['meta'] }),
  }
}
