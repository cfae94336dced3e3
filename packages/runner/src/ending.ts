/**
 * How an attempt ended, as the database takes it: what a handler returned or threw, made into JSON once, at its end.
 *
 * Invariant: what is made here is storable and bounded, whatever the handler left behind, so that a strange value harms
 * its own attempt and no other. What follows for the task (retry, dead, …) is decided by leasehold.settle_endings.
 */
import {
  cleanExact,
  cleanJson,
  cleanText,
  describeError,
  issuesOf,
  type Outcome,
  type Settled,
} from '@leasehold/queue'
import type { AnyStage } from './options.ts'

/** One way to end. `rest` is JSON without the lease it belongs to: `"outcome":"done","result":7}`. */
export interface Ending {
  readonly outcome: 'done' | 'fail' | 'release' | 'snooze' | 'cancel'
  readonly rest: string
}

/** A task stores its result beside it for years: what is larger belongs elsewhere, with a reference here. */
const maxResultCharacters = 1024 * 1024
const maxDelayMs = 30 * 86_400_000

/** The attempt is given back without counting. */
export const releasedEnding: Ending = { outcome: 'release', rest: '"outcome":"release"}' }

/** Done, for attempts that have children to submit; without them an attempt ends 'plain', which needs no JSON. */
export const doneEnding: Ending = { outcome: 'done', rest: '"outcome":"done"}' }

/** What a handler returned cannot be an outcome. Fails the attempt; `retryable` as for anything thrown. */
class OutcomeRefused extends Error {
  readonly code: string
  readonly retryable: boolean

  constructor(code: string, message: string, retryable: boolean) {
    super(message)
    this.code = code
    this.retryable = retryable
  }
}

/**
 * The ending that an outcome asks for; null for done without a result. Throws when it asks for nothing known, or when
 * its result cannot be stored or does not fit the stage.
 */
export function endingOf(outcome: Outcome | Settled | void, stage: AnyStage): Ending | null {
  if (outcome === undefined || outcome === null) return null
  const o = outcome as Outcome
  switch (o.outcome) {
    case 'done':
      return o.result === undefined ? null : make('done', { result: checkedResult(o.result, stage) })
    case 'retry':
      return make('fail', {
        after_ms: delayMs(o.afterMs),
        retryable: 'true',
        error: saying('retry', o.reason),
      })
    case 'dead':
      return make('fail', { retryable: 'false', error: saying('dead', o.reason) })
    case 'snooze':
      return make('snooze', {
        after_ms: delayMs(o.afterMs),
        error: o.reason === undefined ? undefined : saying('snoozed', o.reason),
      })
    case 'cancel':
      return make('cancel', { error: saying('cancelled', o.reason) })
    default:
      throw new OutcomeRefused(
        'outcome_unknown',
        `the handler returned ${cleanText(cleanJson(outcome), 200)}; return nothing or { outcome: 'done' | 'retry' | 'dead' | 'snooze' | 'cancel', … }`,
        false,
      )
  }
}

/** A failed attempt. */
export function failedEnding(error: object, retryable: boolean): Ending {
  return make('fail', { retryable: String(retryable), error: cleanJson(error, 100_000) })
}

/** The failure that a thrown value means; anything may be thrown. Never throws itself. */
export function thrownEnding(thrown: unknown): Ending {
  try {
    if (thrown instanceof OutcomeRefused) {
      return failedEnding({ code: thrown.code, message: cleanText(thrown.message, 4000) }, thrown.retryable)
    }
    const retryable = (thrown as { retryable?: unknown } | null | undefined)?.retryable !== false
    return failedEnding(describeError(thrown), retryable)
  } catch {
    return failedEnding(
      { code: 'thrown', message: 'the handler threw something that cannot be described' },
      true,
    )
  }
}

/** The payload, which plain SQL may have submitted, is not what the stage takes: no attempt can mend that. */
export function payloadInvalidEnding(error: Parameters<typeof issuesOf>[0]): Ending {
  const issues = issuesOf(error).map((i) => ({
    path: cleanText(i.path, 500),
    message: cleanText(i.message, 500),
  }))
  const said = issues.map(sayIssue).join('; ')
  const message = cleanText(`the payload does not fit its stage: ${said}`, 4000)
  return failedEnding({ code: 'payload_invalid', message, issues }, false)
}

function checkedResult(result: unknown, stage: AnyStage): string {
  const checked = stage.result?.safeParse(result)
  if (checked && !checked.success) {
    const said = issuesOf(checked.error).map(sayIssue).join('; ')
    throw new OutcomeRefused('result_invalid', `the handler's result does not fit its stage: ${said}`, true)
  }
  const text = cleanExact(checked ? checked.data : result)
  if (text.length > maxResultCharacters) {
    throw new OutcomeRefused(
      'result_too_large',
      `the handler's result has ${text.length} characters of JSON, at most ${maxResultCharacters} are stored; return a reference to it`,
      true,
    )
  }
  return text
}

function sayIssue(issue: { path: string; message: string }): string {
  return `${issue.path || '(root)'}: ${issue.message}`
}

function saying(code: string, reason: unknown): string {
  return cleanJson({
    code,
    message: cleanText(typeof reason === 'string' ? reason : cleanJson(reason), 4000),
  })
}

/** What is no number leaves the delay to the stage. */
function delayMs(afterMs: unknown): string | undefined {
  if (typeof afterMs !== 'number' || Number.isNaN(afterMs)) return undefined
  return String(Math.round(Math.min(Math.max(afterMs, 0), maxDelayMs)))
}

function make(outcome: Ending['outcome'], fields: Record<string, string | undefined>): Ending {
  let rest = `"outcome":"${outcome}"`
  for (const [name, json] of Object.entries(fields)) if (json !== undefined) rest += `,"${name}":${json}`
  return { outcome, rest: `${rest}}` }
}
