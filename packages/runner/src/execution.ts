/**
 * One attempt: a claimed task, its handler's context, and how it ended.
 *
 * Invariant: an execution ends exactly once (`end` is set once), whatever the handler does later. What happens to the
 * task then is the database's decision; here an ending is only described (ending.ts). The loop that starts executions
 * is loop.ts. Fields that only some handlers need are made when they are asked for: this is the hot path.
 */
import {
  type ClaimedTask,
  cleanExact,
  type Db,
  inTransaction,
  LeaseLostError,
  type Outcome,
  parseExact,
  readCheckpoint,
  settle,
  type Settled,
  type SubmitOptions,
  taskFields,
  type TaskContext,
  TaskEndedError,
  type TaskExtra,
  type TaskFacts,
  type TaskLog,
  type Tx,
  ValueRefusedError,
  writeExact,
  writeNotes,
} from '@leasehold/queue'
import {
  doneEnding,
  type Ending,
  endingOf,
  failedEnding,
  payloadInvalidEnding,
  releasedEnding,
  thrownEnding,
} from './ending.ts'
import { type Level, type Line, lineJson, Notebook } from './notes.ts'
import { isDelicate, type Served } from './capacity.ts'
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

/** How an execution ended, for the loop. `plain`: done without a result, the hot path. `own`: nothing is left to settle. */
export type End = 'plain' | 'own' | Ending

const settled: Settled = Object.freeze({ settled: true })
const maxCheckpointCharacters = 10_000_000

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
  /** When the attempt's timeout is over, by performance.now(). */
  readonly deadlineAt: number
  /** Its stage's places in the runner. */
  readonly served: Served
  /** Nothing is claimed ahead beside it. */
  readonly delicate: boolean
  /** Its handler was called. */
  started = false
  /** Set once. */
  end: End | null = null
  /** The execution ended although its handler had not come back. */
  abandoned = false
  /** Its place in the runner has been given back. */
  freed = false
  /** Its settlement may have arrived before: the answer was lost. */
  resent = false
  /** The database refused the handler's ending; this one only says so. */
  replaced = false
  /** Tasks to submit with a done ending, as JSON. */
  children: string[] | null = null
  notebook: Notebook | null = null
  /** What is held beside it (held.ts). */
  nextHeld: Execution | null = null

  private readonly around: Surroundings
  private readonly extra: TaskExtra | null
  /** As it came, then as its stage's schema has it. */
  private given: unknown
  private facts: TaskFacts | null = null
  private controller: AbortController | null = null
  private abortReason: AttemptAborted | null = null
  private logger: TaskLog | null = null

  /** `claimedAt`: performance.now() before the claim was sent, so that this deadline never lies behind the database's. */
  constructor(task: ClaimedTask, served: Served, claimedAt: number, around: Surroundings) {
    this.taskId = task.taskId
    this.fence = task.fence
    this.attempt = task.attempt
    this.given = task.payload
    this.extra = task.extra
    this.delicate = isDelicate(task)
    this.served = served
    this.stage = served.stage
    this.around = around
    this.deadlineAt = claimedAt + (task.extra?.timeout_ms ?? served.timeoutMs)
  }

  /** Runs the handler; it may end at once. Never throws. */
  run(): void {
    this.started = true
    try {
      const parsed = this.stage.payload.safeParse(this.given)
      if (!parsed.success) return this.finish(payloadInvalidEnding(parsed.error))
      this.given = parsed.data
      // Not an async method: its promise and its frame would be a tenth of what a task costs in this process.
      Promise.resolve(this.stage.run(this)).then(
        (outcome) => this.returned(outcome),
        (error: unknown) => this.threw(error),
      )
    } catch (error) {
      this.threw(error)
    }
  }

  private returned(outcome: Outcome | Settled | void): void {
    try {
      if (this.end === null)
        this.finish(endingOf(outcome, this.stage) ?? (this.children === null ? 'plain' : doneEnding))
    } catch (error) {
      return this.threw(error)
    }
    if (this.abandoned) this.around.late(this)
  }

  private threw(error: unknown): void {
    if (this.end === null) this.finish(thrownEnding(error))
    if (this.abandoned) this.around.late(this)
  }

  private finish(end: End): void {
    this.end = end
    this.around.ended(this)
  }

  /** Gives it back without having run. */
  decline(): void {
    this.finish(releasedEnding)
  }

  /** Ends it now and tells the handler; the attempt fails (timeout), is given back (drain, lease lost) or is over. */
  abort(reason: AttemptAborted): void {
    if (this.end !== null) return
    this.abandoned = this.started
    this.abortReason = reason
    if (reason.why === 'timeout')
      this.finish(failedEnding({ code: 'timeout', message: reason.message }, true))
    else this.finish(reason.why === 'cancelled' ? 'own' : releasedEnding)
    this.controller?.abort(reason)
  }

  /** Its ending was refused for a value in it: it becomes a failed attempt that says so. */
  replaceEnd(error: { code?: string; message: string }): void {
    const message = `what the handler left behind was refused: ${error.message}`
    this.end = failedEnding({ code: error.code ?? 'refused', message }, true)
    this.children = null
    this.replaced = true
  }

  /** Its ending was refused: should the lease stand past its deadline, the attempt is a timeout after all. */
  failAsLate(): void {
    const message = 'the attempt ended within its timeout, but that was settled after it'
    this.end = failedEnding({ code: 'timeout', message }, true)
    this.children = null
    this.replaced = true
  }

  // ---------------------------------------------------------------------------------- what the handler sees

  get payload(): unknown {
    return this.given
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
    const at = (level: Level) => (message: string, fields?: object) =>
      this.say((book) => book.log(level, message, fields))
    return (this.logger ??= { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') })
  }

  progress(fraction: number | null, message?: string): void {
    this.say((book) => book.progress(fraction, message))
  }

  private say(what: (book: Notebook) => void): void {
    if (this.end !== null) return
    what((this.notebook ??= new Notebook()))
    this.around.noted(this)
  }

  async checkpoint<T>(name: string, work: () => Promise<T>): Promise<T> {
    if (typeof name !== 'string' || name.length < 1 || name.length > 200 || name.includes('\0')) {
      throw new ValueRefusedError('22023', null, 'a checkpoint is named by 1 to 200 characters, without NUL')
    }
    if (this.end !== null) throw this.leaseLost()
    const stored = await readCheckpoint(this.around.handlerDb, this.taskId, name)
    if (stored !== null) return parseExact(stored) as T
    const value = cleanExact(await work())
    if (value.length > maxCheckpointCharacters) {
      throw new ValueRefusedError(
        '54000',
        null,
        `checkpoint '${name}' has ${value.length} characters of JSON, at most ${maxCheckpointCharacters} are stored`,
      )
    }
    const note = `"kind":"checkpoint","name":${JSON.stringify(name.toWellFormed())},"value":${value}}`
    if (!(await writeNotes(this.around.handlerDb, this.around.workerId, `[{${this.lease},${note}]`)))
      throw this.leaseLost()
    return parseExact(value) as T
  }

  submit(stage: AnyStage | string, payload: unknown, options: SubmitOptions = {}): void {
    // Nothing would ever submit the child.
    if (this.end === 'own') throw new TaskEndedError(this.taskId)
    if (this.end !== null) throw this.leaseLost()
    // Made into JSON here, so that what cannot be JSON is thrown at the handler that brought it.
    const child = writeExact({ parent_id: this.taskId, ...taskFields(stage as never, payload, options) })
    ;(this.children ??= []).push(child!) // an object is never undefined
  }

  async transaction(effects: (tx: Tx) => Promise<Outcome | void>): Promise<Settled> {
    if (this.end !== null) throw this.leaseLost()
    const { handlerDb, workerId } = this.around
    let lines: Line[] = []
    const book = (this.notebook ??= new Notebook())
    book.held = true
    try {
      await book.settled()
      await inTransaction(handlerDb, async (tx) => {
        const ending = endingOf(await effects(tx), this.stage) ?? doneEnding
        lines = book.take()
        if (lines.length > 0) await writeNotes(tx, workerId, `[${this.linesJson(lines)}]`)
        const children =
          ending.outcome === 'done' && this.children !== null ? `[${this.children.join(',')}]` : null
        const accepted =
          this.end === null && (await settle(tx, workerId, `[{${this.lease},${ending.rest}]`, children))
        if (!accepted) throw this.leaseLost()
      })
    } catch (error) {
      book.putBack(lines)
      throw error
    } finally {
      book.held = false
    }
    if (this.end === null) this.finish('own')
    return settled
  }

  /** The members of a JSON object that name this lease. */
  get lease(): string {
    return `"task_id":"${this.taskId}","fence":"${this.fence}"`
  }

  /** Lines of this attempt as JSON, with commas between them. */
  linesJson(lines: readonly Line[]): string {
    return lines.map((line) => lineJson(this.taskId, this.fence, line)).join(',')
  }

  private leaseLost(): LeaseLostError {
    return new LeaseLostError({ taskId: this.taskId, fence: this.fence, workerId: this.around.workerId })
  }
}

function factsOf(id: string, stage: string, extra: TaskExtra | null): TaskFacts {
  const x = extra ?? {}
  return {
    id,
    stage,
    crashes: x.crashes ?? 0,
    ...(x.run_id === undefined ? {} : { runId: x.run_id }),
    ...(x.key === undefined ? {} : { key: x.key }),
    ...(x.title === undefined ? {} : { title: x.title }),
    ...(x.priority === undefined ? {} : { priority: x.priority }),
    ...(x.concurrency_key === undefined ? {} : { concurrencyKey: x.concurrency_key }),
    ...(x.meta === undefined ? {} : { meta: x.meta }),
  }
}
