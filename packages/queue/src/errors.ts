/**
 * Every error a caller of Leasehold can act on.
 *
 * A class exists only when a caller decides differently because of it. Each one carries its facts as fields, a
 * stable `code` for programs and logs, and a message whose last sentence names the next step.
 * Nothing here formats for a terminal: `runMain` of @leasehold/service prints, daemons log the fields.
 */

/** The parent of every error Leasehold raises on purpose; `code` is stable across releases. */
export class LeaseholdError extends Error {
  readonly code: string

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
    this.name = new.target.name
  }
}

/** What is wrong between the database's schema and the migrations of this program. */
export type SchemaProblem =
  | 'unmigrated' // the database was never migrated
  | 'behind' // the program has migrations which the database lacks
  | 'ahead' // the database was migrated by a newer program
  | 'changed-file' // a migration was edited after it had been applied
  | 'tampered' // live objects differ from what the migrations left behind

/** The facts of a {@link SchemaVersionError}. Versions are migration names (`0001_tasks`) or null for none. */
export interface SchemaVersionFacts {
  readonly problem: SchemaProblem
  readonly databaseVersion: string | null
  readonly programVersion: string | null
  /** The migrations or database objects which differ, at most a handful. */
  readonly differing: readonly string[]
}

/** A login that is named as the schema finds it first in its default search_path. */
const tablesOfTheLogin =
  'If your login is named leasehold, tables it makes without a schema land there: ' +
  '`alter table leasehold.NAME set schema public` moves an added one out, ' +
  '`alter role leasehold set search_path = public` keeps the next one out.'

const schemaAdvice: Record<SchemaProblem, (f: SchemaVersionFacts) => string> = {
  unmigrated: () => 'The database has no Leasehold schema. Run `npx leasehold migrate` once.',
  behind: (f) =>
    `The database is at ${f.databaseVersion}, this program needs ${f.programVersion}. Run \`npx leasehold migrate\`.`,
  ahead: (f) =>
    `The database is at ${f.databaseVersion}, newer than this program, which knows ${f.programVersion ?? 'none'}. ` +
    'Deploy the newer program; an older one must not run here.',
  'changed-file': (f) =>
    `Applied migrations differ from this program's files: ${f.differing.join(', ')}. Migrations are append-only: ` +
    'restore the file as it was applied and put the change into a new one.',
  tampered: (f) =>
    `Schema leasehold was changed by hand; it differs at ${f.differing.join(', ')}. ` +
    'Put those objects back as the migrations made them (migrations/schema.sql shows how), then start again.' +
    (f.differing.some((title) => title.endsWith(' (added)')) ? ` ${tablesOfTheLogin}` : ''),
}

/** The database's schema is not the one this program was written for; nothing may run until it is. */
export class SchemaVersionError extends LeaseholdError implements SchemaVersionFacts {
  readonly problem: SchemaProblem
  readonly databaseVersion: string | null
  readonly programVersion: string | null
  readonly differing: readonly string[]

  constructor(facts: SchemaVersionFacts, options?: ErrorOptions) {
    super('SCHEMA_VERSION', schemaAdvice[facts.problem](facts), options)
    this.problem = facts.problem
    this.databaseVersion = facts.databaseVersion
    this.programVersion = facts.programVersion
    this.differing = facts.differing
  }
}

/** One thing that is wrong with one setting. `problem` never quotes a secret's value. */
export interface ConfigProblem {
  readonly name: string
  readonly problem: string
}

/** The configuration cannot be used; the message lists every problem, so that one edit mends them all. */
export class ConfigError extends LeaseholdError {
  readonly problems: readonly ConfigProblem[]

  constructor(problems: readonly ConfigProblem[], options?: ErrorOptions) {
    const lines = problems.map((p) => `  ${p.name}: ${p.problem}`)
    const count = problems.length === 1 ? '1 problem' : `${problems.length} problems`
    super(
      'CONFIG',
      `The configuration has ${count}:\n${lines.join('\n')}\nSet these and start again.`,
      options,
    )
    this.problems = problems
  }
}

/** A stage name that no runner and nobody else has registered. `hint` names the near ones. */
export class UnknownStageError extends LeaseholdError {
  readonly hint: string

  constructor(message: string, hint: string, options?: ErrorOptions) {
    super('UNKNOWN_STAGE', `${message}. ${hint}`, options)
    this.hint = hint
  }
}

/** One reason why a payload or result does not fit its stage: where in the value, and what is wrong there. */
export interface ValueIssue {
  readonly path: string
  readonly message: string
}

/** A payload (or a handler's result) does not fit the schema of its stage; nothing was submitted. */
export class PayloadInvalidError extends LeaseholdError {
  readonly stage: string
  readonly issues: readonly ValueIssue[]

  constructor(stage: string, issues: readonly ValueIssue[], options?: ErrorOptions) {
    const lines = issues.map((i) => `${i.path || '(root)'}: ${i.message}`)
    super('PAYLOAD_INVALID', `The payload does not fit stage '${stage}': ${lines.join('; ')}.`, options)
    this.stage = stage
    this.issues = issues
  }
}

/** The database refused a value: too large, out of range, or text that PostgreSQL cannot store. Nothing was submitted. */
export class ValueRefusedError extends LeaseholdError {
  /** The SQLSTATE. */
  readonly sqlState: string
  /** The name of the constraint that was broken, which says what is allowed; null when it was none. */
  readonly constraint: string | null

  constructor(sqlState: string, constraint: string | null, message: string, options?: ErrorOptions) {
    super('VALUE_REFUSED', `${message}. Correct the value and submit again.`, options)
    this.sqlState = sqlState
    this.constraint = constraint
  }
}

/** Another session held a schedule for as long as was waited for; nothing was fired, and trying again later will do. */
export class ScheduleBusyError extends LeaseholdError {
  readonly schedule: string

  constructor(schedule: string, options?: ErrorOptions) {
    super(
      'SCHEDULE_BUSY',
      `Schedule '${schedule}' is held by a transaction that has not ended; nothing was fired. Fire it again when that has ended.`,
      options,
    )
    this.schedule = schedule
  }
}

/** No task has this id, or retention has dropped it. */
export class TaskNotFoundError extends LeaseholdError {
  readonly taskId: string

  constructor(taskId: string, options?: ErrorOptions) {
    super('TASK_NOT_FOUND', `Task ${taskId} does not exist. It may have been dropped by retention.`, options)
    this.taskId = taskId
  }
}

/** Another unfinished task of the stage holds the key. */
export class KeyConflictError extends LeaseholdError {
  constructor(message: string, options?: ErrorOptions) {
    super(
      'KEY_CONFLICT',
      `${message}. Submit with onKeyConflict 'keep' to get the existing task's id.`,
      options,
    )
  }
}

/** A parent is missing, or is not older than its child (which is what keeps dependencies free of cycles). */
export class DependencyError extends LeaseholdError {
  constructor(message: string, options?: ErrorOptions) {
    super('DEPENDENCY', `${message}. Submit parents before their children.`, options)
  }
}

/** A task cannot be started now because it waits for its parents or its concurrency key. */
export class TaskHeldBackError extends LeaseholdError {
  constructor(message: string, options?: ErrorOptions) {
    super(
      'TASK_HELD_BACK',
      `${message.replace(/\.?$/, '.')} See \`leasehold why\` for what holds it.`,
      options,
    )
  }
}

/** The lease is gone: the task was cancelled, timed out or taken over. What was written under it changed nothing. */
export class LeaseLostError extends LeaseholdError {
  readonly taskId: string
  readonly fence: string
  readonly workerId: string

  constructor(facts: { taskId: string; fence: string; workerId: string }, options?: ErrorOptions) {
    super(
      'LEASE_LOST',
      `The lease on task ${facts.taskId} (fence ${facts.fence}) is gone; its effects were rolled back. Stop working on it.`,
      options,
    )
    this.taskId = facts.taskId
    this.fence = facts.fence
    this.workerId = facts.workerId
  }
}

/** The handler's own transaction has ended its task: what it does now belongs to no task any more. */
export class TaskEndedError extends LeaseholdError {
  readonly taskId: string

  constructor(taskId: string, options?: ErrorOptions) {
    super(
      'TASK_ENDED',
      `Task ${taskId} has ended with its transaction; this child was not submitted. Submit children before the transaction or inside it.`,
      options,
    )
    this.taskId = taskId
  }
}

/** The awaited task ended without success. */
export class TaskFailedError extends LeaseholdError {
  readonly taskId: string
  readonly outcome: 'dead' | 'cancelled'
  /** What the last attempt left behind: `{ code, message, … }`. */
  readonly error: unknown

  constructor(taskId: string, outcome: 'dead' | 'cancelled', error: unknown) {
    const said = (error as { message?: string } | null)?.message ?? 'no message'
    super('TASK_FAILED', `Task ${taskId} ended ${outcome}: ${said}. Mend the cause, then retry the task.`)
    this.taskId = taskId
    this.outcome = outcome
    this.error = error
  }
}

/** The awaited task has not ended in time; it goes on. */
export class WaitTimeoutError extends LeaseholdError {
  readonly taskId: string
  readonly waitedMs: number

  constructor(taskId: string, waitedMs: number) {
    super(
      'WAIT_TIMEOUT',
      `Task ${taskId} has not ended within ${waitedMs} ms. Ask explainTask why, or wait on.`,
    )
    this.taskId = taskId
    this.waitedMs = waitedMs
  }
}
