/**
 * Decides what a stage does when the model is busy: come back later, or go on without it.
 *
 * A rate limit (429) passes by itself and is waited for without counting an attempt. Anything else that keeps the model away is
 * retried while attempts are left; on the last one the stage does its work without the model and says so. No run fails for want of a model.
 */
import type { Outcome } from '@leasehold/queue'
import { ModelBusyError, type Model } from '@leasehold/stages'

/** Attempts of a task, as the stages declare them; the last one goes without the model. */
export const ATTEMPTS = 3

/** The note a result carries when its last attempt went without the model. */
export const WITHOUT_MODEL = 'the model could not be reached; rules decided'

/** Runs `work` with the model, or without it when that is the only way to an end. Gives an outcome when it is to be tried later. */
export async function withModel<T>(
  model: Model | null,
  attempt: number,
  work: (model: Model | null) => Promise<T>,
): Promise<{ readonly value: T; readonly withoutModel: boolean } | { readonly later: Outcome<never> }> {
  try {
    return { value: await work(model), withoutModel: false }
  } catch (error) {
    if (!(error instanceof ModelBusyError)) throw error
    const afterMs = Math.max(1_000, error.retryAfterMs)
    if (error.status === 429) return { later: { outcome: 'snooze', afterMs, reason: error.message } }
    if (attempt < ATTEMPTS) return { later: { outcome: 'retry', afterMs, reason: error.message } }
    return { value: await work(null), withoutModel: true }
  }
}
