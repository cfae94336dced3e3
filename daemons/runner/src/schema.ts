/**
 * Waiting for a database that can be worked on: it answers, and its schema is this program's.
 *
 * Invariant: nothing is claimed before the schema was checked. An outage only delays, at most a line in ten seconds; what
 * the database says about the schema, the login or the database's name is final.
 */
import {
  assertSchema,
  openPool,
  OutageLog,
  retryDelayMs,
  type SchemaStatus,
  sleep,
} from '@leasehold/postgres'
import { LeaseholdError } from '@leasehold/queue'
import type { Logger } from '@leasehold/service'

/**
 * What was found when the schema fits, null when `stop` aborted before that was known.
 * Throws SchemaVersionError, or the database's own refusal.
 */
export async function untilSchemaFits(
  connectionString: string,
  log: Logger,
  stop: AbortSignal,
): Promise<SchemaStatus | null> {
  const pool = openPool({ connectionString, applicationName: 'leasehold runner start', max: 1 })
  const outage = new OutageLog()
  const told = aborted(stop)
  try {
    while (!stop.aborted) {
      try {
        const status = await Promise.race([assertSchema(pool), told])
        if (stop.aborted || status === undefined) return null
        if (status.newer.length > 0) tellNewer(log, status)
        return status
      } catch (error) {
        if (isFinal(error)) throw error
        if (outage.failed()) {
          const { code, message } = error as { code?: string; message?: string }
          log.warn({ event: 'start.waiting', code, message }, 'the database cannot be used yet; trying again')
        }
        await sleep(retryDelayMs(outage.count), stop)
      }
    }
    return null
  } finally {
    void pool.end().catch(() => {}) // not waited for: it may hang with the database
  }
}

function tellNewer(log: Logger, { databaseVersion: database, programVersion: program }: SchemaStatus): void {
  log.warn(
    { event: 'schema.newer', database, program },
    'the schema is newer than this program, which can work with it; deploy the newer one',
  )
}

function isFinal(error: unknown): boolean {
  return error instanceof LeaseholdError || /^(28|3D|42)...$/.test((error as { code?: string }).code ?? '')
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }))
}
