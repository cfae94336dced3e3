/**
 * Decides what a stage does when the model is busy: come back later, or go on without it.
 *
 * A rate limit (429) passes by itself and is waited for without counting an attempt, but not for ever: a quota that is used
 * up looks the same, so what still meets it after a quarter of an hour goes on without the model. Anything else that keeps the model away is
 * retried while attempts are left; on the last one the stage does its work without the model and says so. No run fails for want of a model.
 */
import type { Outcome, TaskContext } from '@leasehold/queue'
import { ModelBusyError, type Model } from '@leasehold/stages'

/** Attempts of a task, as the stages declare them; the last one goes without the model. */
export const ATTEMPTS = 3

/** The note a result carries when its last attempt went without the model. */
export const WITHOUT_MODEL = 'the model could not be reached; rules decided'

/** So long after a task first met a rate limit the next one is not waited for. */
const patienceMs = 15 * 60_000

type Asking = Pick<TaskContext, 'attempt' | 'checkpoint' | 'db'>

/** For how long this task has been meeting rate limits, ms by the database's clock; 0 for the first time. */
async function limitedForMs(ctx: Asking): Promise<number> {
  const clock = async (): Promise<number> => {
    const { rows } = await ctx.db.query<{ ms: number }>(
      'select extract(epoch from leasehold.clock())::float8 * 1000 as ms',
    )
    return rows[0]!.ms
  }
  const since = await ctx.checkpoint('rate limit of the model, since', clock)
  return (await clock()) - since
}

/** Runs `work` with the model, or without it when that is the only way to an end. Gives an outcome when it is to be tried later. */
export async function withModel<T>(
  model: Model | null,
  ctx: Asking,
  work: (model: Model | null) => Promise<T>,
): Promise<{ readonly value: T; readonly withoutModel: boolean } | { readonly later: Outcome<never> }> {
  try {
    return { value: await work(model), withoutModel: false }
  } catch (error) {
    if (!(error instanceof ModelBusyError)) throw error
    const afterMs = Math.max(1_000, error.retryAfterMs)
    if (error.status === 429) {
      if ((await limitedForMs(ctx)) < patienceMs)
        return { later: { outcome: 'snooze', afterMs, reason: error.message } }
    } else if (ctx.attempt < ATTEMPTS) return { later: { outcome: 'retry', afterMs, reason: error.message } }
    return { value: await work(null), withoutModel: true }
  }
}
