/**
 * The database a daemon starts on: it answers, lets this login in, and its schema is this program's.
 *
 * Invariant: nothing is done before the schema was checked. An outage only delays the start; what the server says about
 * the schema, the login, its rights or the database's name is final, because waiting would not change it.
 * Refuses to log: the caller is told and has the words.
 */
import { ConfigError, LeaseholdError } from '@leasehold/queue'
import { errorCode } from './error-code.ts'
import { OutageLog, retryDelayMs, sleep } from './outage.ts'
import { openPool } from './pool.ts'
import { resolveDatabase } from './resolve-database.ts'
import { type SchemaStatus, assertSchema } from './schema-status.ts'

/** A link that is half open answers nothing: then it is given up and tried again. */
const queryTimeoutMs = 30_000

/** Which database, and what is said while it is waited for. Neither callback may throw. */
export interface ReadyOptions {
  /** Null: an embedded server, which is stopped after the work when it was started for it. */
  readonly databaseUrl: string | null
  /** Null: the working directory's own. */
  readonly dataDir: string | null
  /** Shown in pg_stat_activity while the schema is checked. */
  readonly applicationName: string
  /** Ends the waiting. */
  readonly stop: AbortSignal
  /** The database cannot be used yet and is tried again; at most one call in ten seconds. */
  readonly onWaiting: (error: unknown) => void
  /** The schema is newer than this program, which can work with it; one call. */
  readonly onNewer: (schema: SchemaStatus) => void
}

/** Where to connect, and what was found there. */
export interface ReadyDatabase {
  readonly url: string
  readonly schema: SchemaStatus
}

/**
 * Waits for the database, does the work, and ends an embedded server that was started for it. When `stop` aborts before
 * the database is ready, the work is left out. Throws SchemaVersionError, ConfigError for an address that cannot work, the
 * server's own refusal (SQLSTATE class 28, 3D or 42), and what the work throws.
 */
export async function withReadyDatabase(
  options: ReadyOptions,
  work: (database: ReadyDatabase) => Promise<void>,
): Promise<void> {
  const { databaseUrl, dataDir } = options
  const database = await resolveDatabase({ databaseUrl: databaseUrl ?? undefined, dataDir })
  try {
    const schema = await untilSchemaFits(database.url, options)
    if (schema !== null) await work({ url: database.url, schema })
  } finally {
    await database.stop()
  }
}

/** What was found when the schema fits, null when `stop` aborted before that was known. */
async function untilSchemaFits(
  connectionString: string,
  { applicationName, stop, onWaiting, onNewer }: ReadyOptions,
): Promise<SchemaStatus | null> {
  const pool = openPool({ connectionString, applicationName, max: 1, queryTimeoutMs })
  const outage = new OutageLog()
  const told = aborted(stop)
  try {
    while (!stop.aborted) {
      try {
        const schema = await Promise.race([assertSchema(pool), told])
        if (schema === null || stop.aborted) return null
        if (schema.newer.length > 0) onNewer(schema)
        return schema
      } catch (error) {
        if (isPasswordMissing(error)) throw new ConfigError([passwordProblem], { cause: error })
        if (isFinal(error)) throw error
        if (outage.failed()) onWaiting(error)
        await sleep(retryDelayMs(outage.count), stop)
      }
    }
    return null
  } finally {
    void pool.end().catch(() => {}) // not waited for: it may hang with the database
  }
}

const passwordProblem = {
  name: 'DATABASE_URL',
  problem: 'has no password, and the server asks for one (PGPASSWORD serves as well)',
}

/** The driver itself gives up then, with an error that has no code. */
function isPasswordMissing(error: unknown): boolean {
  return error instanceof Error && /^SASL: .*client password must be/.test(error.message)
}

function isFinal(error: unknown): boolean {
  return error instanceof LeaseholdError || /^(28|3D|42)...$/.test(errorCode(error) ?? '')
}

function aborted(signal: AbortSignal): Promise<null> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve(null)
    else signal.addEventListener('abort', () => resolve(null), { once: true })
  })
}
