/**
 * Asks a model when there is one, and turns its absence or failure into a note instead of a failure.
 *
 * A model that is busy is worth coming back for: its error passes through, and stages/degrade.ts decides whether the task waits.
 * An answer that cannot be used, or a refused request, is not: the caller goes on with what rules can do.
 */
import { ModelAnswerInvalidError, ModelRefusedError, type Model, type Question } from '@leasehold/stages'

/** The model's answer, or why there is none (null when nobody was asked). */
export type Advice<T> =
  { readonly value: T; readonly note: null } | { readonly value: null; readonly note: string | null }

/** Asks `model`. Throws ModelBusyError, and the signal's reason when it aborts. */
export async function advise<T>(model: Model | null, question: Question<T>): Promise<Advice<T>> {
  if (model === null) return { value: null, note: null }
  try {
    const { value } = await model.ask(question)
    return { value, note: null }
  } catch (error) {
    if (error instanceof ModelAnswerInvalidError) {
      return { value: null, note: `the model's answer could not be used (${error.reason}); rules decided` }
    }
    if (error instanceof ModelRefusedError) {
      return { value: null, note: `the model refused the request (status ${error.status}); rules decided` }
    }
    throw error
  }
}
