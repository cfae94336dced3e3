/**
 * Kysely's migrator over one checked-out client: applies one file inside the transaction of migrate.ts.
 *
 * Loaded when somebody migrates, never with a daemon: Kysely is a third of what a process would have to load.
 * What may be applied, and under which lock, is migrate.ts's business.
 */
import { LeaseholdError } from '@leasehold/queue'
import { Kysely, PostgresAdapter, PostgresDialect, type PostgresPool, type Transaction, sql } from 'kysely'
import { type Migration, Migrator } from 'kysely/migration'
import type { PoolClient } from 'pg'
import type { MigrationFile, MigrationSet } from './migration-files.ts'
import { refuseFile } from './migration-refusal.ts'
import { bookkeepingSchema } from './schema-status.ts'

/** A read-committed transaction of the client, as Kysely wants it. */
export function migrationTransaction<T>(
  client: PoolClient,
  run: (trx: Transaction<unknown>) => Promise<T>,
): Promise<T> {
  const db = new Kysely<unknown>({ dialect: new OneClientDialect(client) })
  return db.transaction().setIsolationLevel('read committed').setAccessMode('read write').execute(run)
}

/** Applies the first file that is missing. Throws LeaseholdError 'MIGRATION_LOCKED' or 'MIGRATION_FAILED'. */
export async function applyFile(
  trx: Kysely<unknown>,
  client: PoolClient,
  set: MigrationSet,
  files: readonly MigrationFile[],
): Promise<void> {
  const migrations = Object.fromEntries(files.map((file) => [file.name, toMigration(file, client)]))
  const migrator = new Migrator({
    db: trx,
    provider: { getMigrations: () => Promise.resolve(migrations) },
    migrationTableSchema: bookkeepingSchema,
    migrationTableName: `applied_${set.name}`,
    migrationLockTableName: 'migration_lock',
  })
  const { error } = await migrator.migrateUp()
  if (error !== undefined) throw error
}

function toMigration(file: MigrationFile, client: PoolClient): Migration {
  return {
    async up(db) {
      const before = await transactionId(client)
      await sql
        .raw(file.sql)
        .execute(db)
        .catch((cause: unknown) => refuseFile(file, cause))
      // A file with its own COMMIT would leave its second half without the lock and the bookkeeping.
      if ((await transactionId(client)) !== before) {
        throw new LeaseholdError(
          'MIGRATION_FAILED',
          `Migration ${file.name} ends its transaction by itself. Remove its BEGIN, COMMIT or ROLLBACK.`,
        )
      }
    },
  }
}

async function transactionId(client: PoolClient): Promise<string | undefined> {
  const { rows } = await client.query<{ id: string }>('select pg_current_xact_id()::text as id')
  return rows[0]?.id
}

/** Kysely over one checked-out client. The lock is taken before Kysely runs, so its own session lock is left out. */
class OneClientDialect extends PostgresDialect {
  constructor(client: PoolClient) {
    const lent = { query: client.query.bind(client), release: () => {} }
    const pool = { connect: () => Promise.resolve(lent), end: () => Promise.resolve(), options: {} }
    super({ pool: pool satisfies PostgresPool })
  }

  override createAdapter(): PostgresAdapter {
    return new LockedAdapter()
  }
}

class LockedAdapter extends PostgresAdapter {
  override acquireMigrationLock(): Promise<void> {
    return Promise.resolve()
  }

  override releaseMigrationLock(): Promise<void> {
    return Promise.resolve()
  }
}
