/**
 * What the exit code of `leasehold` says, so that a script need not read the text.
 *
 * Invariant: 0 means that what was asked for happened (or was shown); the help text and the tests repeat this table.
 */

export const exitCodes = {
  /** Done, or shown. */
  ok: 0,
  /** It went wrong: the database is away, a check is bad, an unexpected error. */
  failed: 1,
  /** The command line or the configuration is wrong; nothing was tried. */
  usage: 2,
  /** A task, stage or run that was named does not exist. */
  notFound: 3,
  /** All is well and nothing changed: the task had ended, the stage was not paused. */
  nothingDone: 4,
  /** `leasehold runner`: another process has taken its slot; it must not be started again. */
  slotTaken: 5,
} as const

export type ExitCode = (typeof exitCodes)[keyof typeof exitCodes]

/** For the end of every help text. */
export const exitCodesHelp = `
Exit codes: 0 done · 1 failed · 2 wrong usage or configuration · 3 not found · 4 nothing to do (e.g. cancel of an ended task) · 5 the runner's slot was taken by another`
