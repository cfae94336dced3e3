/**
 * Waiting for a database that can be worked on: it answers, and its schema is this program's.
 *
 * Invariant: nothing is claimed before the schema was checked. An outage only delays, at most a line in ten seconds; what
 * the database says about the schema, the login or the database's name is final.
 */
import { assertSchema, openPool, OutageLog, retryDelayMs, sleep } from '@leasehold/postgres'
import { LeaseholdError } from '@leasehold/queue'
import type { Logger } from '@leasehold/service'

/**
 * True when the schema fits, false when `stop` aborted before that was known.
 * Throws SchemaVersionError, or the database's own refusal.
 */
export async function untilSchemaFits(
  connectionString: string,
  log: Logger,
  stop: AbortSignal,
): Promise<boolean> {
  const pool = openPool({ connectionString, applicationName: 'leasehold runner start', max: 1 })
  const outage = new OutageLog()
  const told = aborted(stop)
  try {
    while (!stop.aborted) {
      try {
        await Promise.race([assertSchema(pool), told])
        return !stop.aborted
      } catch (error) {
        if (isFinal(error)) throw error
        if (outage.failed()) {
          const { code, message } = error as { code?: string; message?: string }
          log.warn({ event: 'start.waiting', code, message }, 'the database cannot be used yet; trying again')
        }
        await sleep(retryDelayMs(outage.count), stop)
      }
    }
    return false
  } finally {
    void pool.end().catch(() => {}) // not waited for: it may hang with the database
  }
}

function isFinal(error: unknown): boolean {
  return error instanceof LeaseholdError || /^(28|3D|42)...$/.test((error as { code?: string }).code ?? '')
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }))
}
