/**
 * What a person or a program is told when a command fails: one message, what to do next, and an exit code.
 *
 * Invariant: every failure has a hint, and none shows a secret: addresses are shown without their password.
 * Commands throw; only ../main.ts prints, once.
 */
import { LeaseholdError } from '@leasehold/queue'
import { type ExitCode, exitCodes } from './exit-codes.ts'

/** A command cannot do what it was asked; `hint` says what would work, `exitCode` tells scripts which kind it is. */
export class CommandError extends LeaseholdError {
  readonly hint: string
  readonly exitCode: ExitCode

  constructor(code: string, message: string, hint: string, exitCode: ExitCode, options?: ErrorOptions) {
    super(code, message, options)
    this.hint = hint
    this.exitCode = exitCode
  }
}

/** The command line is wrong in a way that the parser cannot see. */
export function usageError(message: string, hint: string): CommandError {
  return new CommandError('USAGE', message, hint, exitCodes.usage)
}

/** For a run that has no task and that no pipeline knows. */
export function runNotFound(runId: string): CommandError {
  const message = `There is no run '${runId.slice(0, 200)}'`
  return new CommandError('RUN_NOT_FOUND', message, 'all runs: npx leasehold runs', exitCodes.notFound)
}

export interface Failure {
  readonly code: string
  readonly message: string
  readonly hint: string
  readonly exitCode: ExitCode
}

// What the library cannot know: which command comes next.
const advice: Readonly<Record<string, { hint: string; exitCode: ExitCode }>> = {
  CONFIG: { hint: 'mend the settings above in the environment', exitCode: exitCodes.usage },
  UNKNOWN_STAGE: { hint: 'all stages: npx leasehold stages', exitCode: exitCodes.notFound },
  TASK_NOT_FOUND: { hint: 'find tasks: npx leasehold tasks', exitCode: exitCodes.notFound },
  PAYLOAD_INVALID: { hint: 'correct the payload; nothing was submitted', exitCode: exitCodes.usage },
  VALUE_REFUSED: { hint: 'correct the value; nothing was changed', exitCode: exitCodes.usage },
  KEY_CONFLICT: {
    hint: 'add --on-key-conflict keep (the existing task) or replace (cancel it)',
    exitCode: exitCodes.failed,
  },
  DEPENDENCY: { hint: 'look the parent up: npx leasehold show ID', exitCode: exitCodes.failed },
  TASK_HELD_BACK: { hint: 'what holds it: npx leasehold why ID', exitCode: exitCodes.nothingDone },
  SCHEDULE_BUSY: {
    hint: "run it again; who holds it: select pid, xact_start, application_name, query from pg_stat_activity where state <> 'idle' order by xact_start",
    exitCode: exitCodes.failed,
  },
  SCHEMA_VERSION: { hint: 'compare in detail: npx leasehold doctor', exitCode: exitCodes.failed },
  DIRECTORY_INVALID: {
    hint: 'name a CSV file with a header line: npx leasehold start --source FILE',
    exitCode: exitCodes.usage,
  },
  CRITERIA_INVALID: { hint: 'correct the criteria: npx leasehold start --help', exitCode: exitCodes.usage },
  RUN_NOT_FOUND: { hint: 'all runs: npx leasehold runs', exitCode: exitCodes.notFound },
  RUN_EXISTS: {
    hint: 'give the run another name, or look at it: npx leasehold runs',
    exitCode: exitCodes.failed,
  },
  EMBEDDED: { hint: 'or use a server of yours: set DATABASE_URL', exitCode: exitCodes.failed },
}

// By SQLSTATE, or by the code of a socket's error.
const databaseHints: readonly (readonly [pattern: RegExp, hint: string])[] = [
  [
    /^(ECONNREFUSED|ENOTFOUND|EAI_AGAIN|ETIMEDOUT|EHOSTUNREACH|ECONNRESET|08...|57P0[1-3])$/,
    'check DATABASE_URL and that the server runs; without DATABASE_URL: npx leasehold db start',
  ],
  [/^28/, 'check user and password in DATABASE_URL, and the server’s pg_hba.conf'],
  [/^3D000$/, 'create the database, or correct its name in DATABASE_URL'],
  [/^(42P01|42883|3F000|42703)$/, 'the schema is missing or old: npx leasehold migrate'],
  [
    /^42501$/,
    'this login lacks a role: grant leasehold_observer (read), leasehold_operator (cancel, retry, pause) or leasehold_submitter to it',
  ],
  [/^57014$/, 'it took too long: narrow it with --run, --stage, --key or a smaller --limit'],
  [/^(40001|40P01|55P03)$/, 'others were changing the same rows: run the command again'],
  [/^53/, 'the server is out of connections, memory or disk: see its log'],
]

/** Turns whatever was thrown into what is shown. */
export function toFailure(error: unknown): Failure {
  if (error instanceof CommandError) return error
  if (error instanceof LeaseholdError) {
    const known = advice[error.code]
    const { hint = 'npx leasehold doctor looks for the cause', exitCode = exitCodes.failed } = known ?? {}
    return { code: error.code, message: error.message, hint, exitCode }
  }
  const { code, message } = describe(error)
  const hint = databaseHints.find(([pattern]) => pattern.test(code))?.[1] ?? ownHint(error)
  return {
    code,
    message: withoutPasswords(message),
    hint:
      hint ??
      (code === 'UNEXPECTED'
        ? 'this is a bug: please report it with the lines below'
        : 'npx leasehold doctor looks for the cause'),
    exitCode: exitCodes.failed,
  }
}

/** Several addresses may have been tried: the first one's failure stands for all. */
function describe(error: unknown): { code: string; message: string } {
  if (error instanceof AggregateError && error.errors.length > 0) return describe(error.errors[0])
  if (!(error instanceof Error)) return { code: 'UNEXPECTED', message: String(error) }
  const code = 'code' in error && typeof error.code === 'string' ? error.code : 'UNEXPECTED'
  if (/timeout/i.test(error.message) && code === 'UNEXPECTED')
    return { code: 'ETIMEDOUT', message: error.message }
  return { code, message: error.message || error.name }
}

/** The hint which the database sent along, as our own functions do. */
function ownHint(error: unknown): string | undefined {
  const hint = error instanceof Error && 'hint' in error ? error.hint : undefined
  return typeof hint === 'string' && hint !== '' ? hint : undefined
}

/** The same text with the password of every address in it replaced. */
export function withoutPasswords(text: string): string {
  return text.replaceAll(/([a-z][a-z0-9+.-]{2,20}:\/\/[^\s:/@"]*):[^\s@"]+@/gi, '$1:***@')
}
