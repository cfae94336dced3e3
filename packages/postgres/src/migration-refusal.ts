/**
 * What is said when a migration file cannot be applied: that a lock was not to be had, or what is wrong and where.
 */
import { LeaseholdError } from '@leasehold/queue'
import { DatabaseError } from 'pg'
import { errorCode } from './error-code.ts'
import type { MigrationFile } from './migration-files.ts'

/** Throws LeaseholdError 'MIGRATION_LOCKED', or 'MIGRATION_FAILED' with the file and the line. */
export function refuseFile(file: MigrationFile, cause: unknown): never {
  if (errorCode(cause) === '55P03') {
    throw new LeaseholdError(
      'MIGRATION_LOCKED',
      `Migration ${file.name} waited too long for a table lock. Nothing was changed; ` +
        'find the long transaction in pg_stat_activity, then run this again.',
      { cause },
    )
  }
  const position = cause instanceof DatabaseError ? cause.position : undefined
  const message = cause instanceof Error ? cause.message : String(cause)
  const line =
    position === undefined ? '' : ` at line ${file.sql.slice(0, Number(position)).split('\n').length}`
  throw new LeaseholdError(
    'MIGRATION_FAILED',
    `Migration ${file.name} failed${line}: ${message}. Nothing of this file was kept; mend it and run this again.`,
    { cause },
  )
}
