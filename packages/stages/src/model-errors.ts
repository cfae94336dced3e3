/**
 * What can go wrong between us and a model, by what the caller does about it.
 *
 * Busy: come back later. Answer invalid: do without the model. Refused: the request itself is not accepted (key, quota,
 * parameters), and asking again changes nothing. The client is model.ts.
 */
import { LeaseholdError } from '@leasehold/queue'

/** The model's service cannot answer now; nothing is wrong with the request. Try again after `retryAfterMs`. */
export class ModelBusyError extends LeaseholdError {
  readonly retryAfterMs: number
  /** The HTTP status (429, 529, 5xx); null when the connection failed or broke off. */
  readonly status: number | null

  constructor(retryAfterMs: number, status: number | null, options?: ErrorOptions) {
    const what =
      status === null
        ? 'The connection to the model failed'
        : `The model's service answered with status ${status}`
    super('MODEL_BUSY', `${what}. Try again in ${Math.ceil(retryAfterMs / 1000)} s.`, options)
    this.retryAfterMs = retryAfterMs
    this.status = status
  }
}

/** Why an answer could not be used, even after the model was told what is wrong with it. */
export type InvalidAnswerReason = 'does not fit the schema' | 'cut off' | 'refused to answer' | 'no answer'

/** The model answered, but not what was asked for. `issues` says what does not fit. */
export class ModelAnswerInvalidError extends LeaseholdError {
  readonly reason: InvalidAnswerReason
  readonly issues: readonly string[]

  constructor(reason: InvalidAnswerReason, issues: readonly string[], options?: ErrorOptions) {
    const detail = issues.length === 0 ? '' : `: ${issues.slice(0, 5).join('; ')}`
    const advice =
      reason === 'cut off'
        ? 'Ask for less or raise maxTokens.'
        : 'Go on without the model, or change the prompt.'
    super(
      'MODEL_ANSWER_INVALID',
      `The model's answer cannot be used (${reason}${detail}). ${advice}`,
      options,
    )
    this.reason = reason
    this.issues = issues
  }
}

/** The service does not accept the request (4xx): a wrong key, no credit, a parameter it does not know. Asking again is useless. */
export class ModelRefusedError extends LeaseholdError {
  readonly status: number

  constructor(status: number, explanation: string, options?: ErrorOptions) {
    const advice =
      status === 401 || status === 403
        ? 'Check ANTHROPIC_API_KEY.'
        : 'Check the model name, the account and the request.'
    super(
      'MODEL_REFUSED',
      `The model's service refused the request with status ${status}: ${explanation}. ${advice}`,
      options,
    )
    this.status = status
  }
}
