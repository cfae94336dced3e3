/**
 * A stage: a named kind of work with its settings, the shape of its payload, and the handler that does it.
 *
 * Defined once, used on both sides: submitters get typed, checked payloads, runners get the handler. Payloads are
 * checked when they are submitted from TypeScript and again when they are worked, because plain SQL submits too.
 * The loop that runs handlers is @leasehold/runner; here is only what both sides must agree on.
 */
import type { z } from 'zod'
import type { Db, Tx } from './db.ts'
import { type Duration, toMs } from './duration.ts'
import { PayloadInvalidError, type ValueIssue, ValueRefusedError } from './errors.ts'
import { parseExact, writeExact } from './exact-json.ts'
import { type RateLimit, rateProblem } from './rate.ts'
import type { SubmitOptions } from './submit.ts'

/** How an attempt ended, as a handler returns it. Returning nothing means done without a result. */
export type Outcome<R = unknown> =
  | { outcome: 'done'; result?: R }
  /** Counts as a failed attempt; the next one after `afterMs`, or after the stage's backoff. */
  | { outcome: 'retry'; afterMs?: number; reason: string }
  /** Failed for good, whatever attempts are left. */
  | { outcome: 'dead'; reason: string }
  /** Not now: again after `afterMs`, without counting an attempt. */
  | { outcome: 'snooze'; afterMs: number; reason?: string }
  /** Not wanted any more. */
  | { outcome: 'cancel'; reason: string }

/** What `ctx.transaction` resolves to: the task is settled, nothing the handler returns changes that. */
export interface Settled {
  readonly settled: true
}

/** The task a handler works on, beside its payload. */
export interface TaskFacts {
  readonly id: string
  readonly stage: string
  readonly runId?: string
  readonly key?: string
  readonly title?: string
  readonly priority?: number
  readonly concurrencyKey?: string
  readonly meta?: unknown
  /** How often a worker has died while holding this task. */
  readonly crashes: number
}

/** Lines stored with the task; `leasehold logs` shows them. Capped per attempt, oldest kept. */
export interface TaskLog {
  debug(message: string, fields?: object): void
  info(message: string, fields?: object): void
  warn(message: string, fields?: object): void
  error(message: string, fields?: object): void
}

/** All a handler gets. Whatever it writes through this context is refused once its lease is gone. */
export interface TaskContext<P = unknown, R = unknown> {
  /** As the stage's schema made it. Integers that a number would round arrive there as bigint: `z.coerce.bigint()`. */
  readonly payload: P
  readonly task: TaskFacts
  /** 1 for the first attempt. Releases and snoozes give the number back, so it is no fence. */
  readonly attempt: number
  /** Grows with every claim, never reused: pass it, with the task id, to outside resources that can refuse old ones. */
  readonly fence: string
  /** Aborted when the task times out, is cancelled, loses its lease, or the drain limit is over. */
  readonly signal: AbortSignal
  readonly log: TaskLog
  /** Shows how far the task is: 0 to 1 or null for unknown, with a line of text. Cheap; only the latest is kept. */
  progress(fraction: number | null, message?: string): void
  /**
   * Runs `work` once per task. This attempt and later ones get what was stored, as JSON has it: an integer is a number, or a
   * bigint where a number would round it. Throws LeaseLostError.
   */
  checkpoint<T>(name: string, work: () => Promise<T>): Promise<T>
  /** Submits a child when, and only when, this task is settled as done, in the same transaction. */
  submit<C>(stage: Stage<C> | string, payload: C, options?: SubmitOptions): void
  /** For reading. */
  readonly db: Db
  /** Runs `effects` and settles the task in one transaction, then commits: exactly once or not at all. Call it last. */
  transaction(effects: (tx: Tx) => Promise<Outcome<R> | void>): Promise<Settled>
}

/** What `defineStage` takes. */
export interface StageDefinition<P, R> {
  /** Lower case letters, digits, `_ . -`, at most 48 characters. */
  readonly name: string
  readonly payload: z.ZodType<P>
  readonly result?: z.ZodType<R>
  /** Tasks of this stage one runner works on at once; default 1. */
  readonly concurrency?: number
  /** The most one attempt may take; default 30 min, at most 30 d. */
  readonly timeout?: Duration
  /** 0–9, higher first; default 5. */
  readonly priority?: number
  /** Attempts in all (default 3) and the backoff between them, doubling from `from` (5 s) to `to` (30 s). */
  readonly retry?: { readonly attempts?: number; readonly from?: Duration; readonly to?: Duration }
  /**
   * `perKey`: tasks of one concurrency key at once (1). `crashes`: worker deaths until quarantine (3). `rate`: how many start
   * in a length of time, over all workers (any number); a worker that registers the stage without it takes it away.
   */
  readonly limits?: {
    readonly perKey?: number
    readonly crashes?: number
    readonly rate?: RateLimit | null
  }
  /** Live workers that ought to be there; fewer is an incident. Default 0: any number is fine. */
  readonly expectedWorkers?: number
  run(ctx: TaskContext<P, R>): Promise<Outcome<R> | Settled | void>
}

/** What the database keeps of a stage; what is left out stays as it is. `limits.rate` null: no limit. */
export type StageSettings = Omit<
  StageDefinition<unknown, unknown>,
  'payload' | 'result' | 'run' | 'concurrency'
>

/** A checked definition. `P` is the payload, `R` the result. */
export type Stage<P = unknown, R = unknown> = StageDefinition<P, R>

const bounds: [string, number, number][] = [
  ['concurrency', 1, 100_000],
  ['priority', 0, 9],
  ['expectedWorkers', 0, 100_000],
]

/** Checks a definition and returns it. Throws {@link ValueRefusedError} naming the setting that cannot work. */
export function defineStage<P, R = unknown>(definition: StageDefinition<P, R>): Stage<P, R> {
  const refuse = (what: string): never => {
    throw new ValueRefusedError('22023', null, `stage '${definition.name}': ${what}`)
  }
  if (!/^[a-z][a-z0-9_.-]{0,47}$/.test(definition.name)) {
    refuse('a name is 1–48 lower case letters, digits, _ . - and starts with a letter')
  }
  const values: Record<string, number | undefined> = { ...definition } as never
  for (const [name, least, most] of bounds) {
    const value = values[name]
    if (value !== undefined && !(Number.isInteger(value) && value >= least && value <= most)) {
      refuse(`${name} must be a whole number from ${least} to ${most}, not ${value}`)
    }
  }
  const { retry = {}, limits = {}, timeout } = definition
  const inRange = (name: string, value: number | undefined, most: number) => {
    if (value !== undefined && !(Number.isInteger(value) && value >= 1 && value <= most)) {
      refuse(`${name} must be a whole number from 1 to ${most}, not ${value}`)
    }
  }
  inRange('retry.attempts', retry.attempts, 1000)
  inRange('limits.perKey', limits.perKey, 100_000)
  inRange('limits.crashes', limits.crashes, 100)
  const wrongRate = limits.rate && rateProblem(limits.rate)
  if (wrongRate) refuse(`limits.rate.${wrongRate.part} ${wrongRate.problem}`)
  if (timeout !== undefined && !(toMs(timeout) >= 1 && toMs(timeout) <= 30 * 86_400_000)) {
    refuse(`timeout must be between 1 ms and 30 d, not ${timeout}`)
  }
  if (toMs(retry.from ?? '5 s') > toMs(retry.to ?? Math.max(30_000, toMs(retry.from ?? 0)))) {
    refuse(`retry.from (${retry.from}) must not exceed retry.to (${retry.to ?? '30 s'})`)
  }
  return definition
}

/** Checks a value against a stage's schema. Returns what the schema makes of it. Throws {@link PayloadInvalidError}. */
export function parsePayload<P>(stage: Pick<Stage<P>, 'name' | 'payload'>, value: unknown): P {
  const parsed = stage.payload.safeParse(value)
  if (parsed.success) return parsed.data
  throw new PayloadInvalidError(stage.name, issuesOf(parsed.error), { cause: parsed.error })
}

/**
 * Throws {@link PayloadInvalidError} when the schema, at work, would not read what it has made here: it is stored as JSON and
 * read by the same schema again, so a date becomes a text, and a transformation would be done twice.
 */
export function assertReadable<P>(stage: Pick<Stage<P>, 'name' | 'payload'>, made: P): void {
  let stored: string | undefined
  try {
    stored = writeExact(made)
  } catch {} // no JSON at all: refused where it is written, by a better message
  if (stored === undefined) return
  const again = stage.payload.safeParse(parseExact(stored))
  if (again.success && writeExact(again.data) === stored) return
  const what = again.success ? 'would be changed again' : `is refused (${issuesOf(again.error)[0]!.message})`
  const message = `what the schema makes of it ${what} when it is read at work: use z.coerce.date() for dates, transform in the handler`
  throw new PayloadInvalidError(stage.name, [{ path: '', message }])
}

/** zod's issues in our plain form, at most 20. */
export function issuesOf(error: z.ZodError): ValueIssue[] {
  return error.issues.slice(0, 20).map((i) => ({ path: i.path.map(String).join('.'), message: i.message }))
}
