/**
 * From SQLSTATEs to errors a caller can act on. Every verb that people call passes its failure through here.
 *
 * Anything that is not about the caller's values (connections, deadlocks, bugs) goes through unchanged.
 */
import {
  DependencyError,
  KeyConflictError,
  LeaseholdError,
  TaskHeldBackError,
  TaskNotFoundError,
  UnknownStageError,
  ValueRefusedError,
} from './errors.ts'

interface DatabaseFailure {
  code: string
  message: string
  hint?: string
  detail?: string
  constraint?: string
}

function isDatabaseFailure(error: unknown): error is Error & DatabaseFailure {
  return error instanceof Error && typeof (error as { code?: unknown }).code === 'string'
}

/** The error to throw instead of what `pg` threw; the original is its cause. */
export function translate(error: unknown): unknown {
  if (!isDatabaseFailure(error)) return error
  const { code, message, hint = '', detail = '' } = error
  const options = { cause: error }
  if (code === 'LH001') return new UnknownStageError(message, hint, options)
  if (code === 'LH002') return new TaskNotFoundError(/\d+/.exec(message)?.[0] ?? '?', options)
  if (code === 'LH003') return new DependencyError(message, options)
  if (code === 'LH006') return new LeaseholdError('SCHEMA_VERSION', `${message}. ${hint}`, options)
  if (code === 'LH005') return new TaskHeldBackError(message, options)
  if (code === '23505' && error.constraint === 'key_once_per_unfinished_task') {
    return new KeyConflictError([message, detail].filter(Boolean).join('. ').replace(/\.$/, ''), options)
  }
  // submit(on_key_conflict => 'replace') met a task that runs.
  if (code === '55006') return new KeyConflictError(message, options)
  // Class 22: the value itself; 23514: one of the named checks; 54: too deep or too large for the server.
  if (code.startsWith('22') || code === '23514' || code === '23502' || code.startsWith('54')) {
    return new ValueRefusedError(
      code,
      error.constraint ?? null,
      [message, detail].filter(Boolean).join(': '),
      options,
    )
  }
  return error
}

/** Runs `work` and translates what it throws. */
export async function translating<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    throw translate(error)
  }
}
