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
    'Put those objects back as the migrations made them (migrations/schema.sql shows how), then start again.',
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
