/**
 * The code of whatever was thrown: an SQLSTATE from the server, or Node's name for a system error.
 *
 * Invariant: never throws, never guesses. What a code means is decided where it is asked for.
 */

/** The `code` field of a thrown value when it is text; undefined when there is none. */
export function errorCode(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null || !('code' in error)) return undefined
  return typeof error.code === 'string' ? error.code : undefined
}
