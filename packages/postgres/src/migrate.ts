/**
 * The migrator: brings a database to the version of this program.
 *
 * Invariant: a file, its row in the bookkeeping, its checksum and the new fingerprint commit together or not at all,
 * one transaction for each file, under one lock, so that any number of processes may start at once. The lock belongs to
 * the transaction, which is what makes this work through PgBouncer.
 * Refuses databases that are newer, edited files and schemas changed by hand; how that is found is in schema-status.ts.
 */
import { LeaseholdError, SchemaVersionError } from '@leasehold/queue'
import type { Pool, PoolClient } from 'pg'
import { errorCode } from './error-code.ts'
import { takeFingerprint } from './fingerprint.ts'
import {
  type MigrationFile,
  type MigrationSet,
  leaseholdMigrations,
  readMigrations,
} from './migration-files.ts'
import { refuseFile } from './migration-refusal.ts'
import { openPool } from './pool.ts'
import { type SchemaStatus, bookkeepingSchema, compareSchema } from './schema-status.ts'

/** What to apply and how patiently. */
export interface MigrateOptions {
  /** Another set of migrations than Leasehold's own, for instance a pipeline's domain tables. */
  readonly set?: MigrationSet
  /** Another folder for the set's files. */
  readonly folder?: string
  /** Longest wait for another process that migrates; default 5 min. */
  readonly waitMs?: number
  /** Longest wait of one statement for a table lock, while which all other users of the table wait too; default 15 s. */
  readonly lockTimeoutMs?: number
}

/** `applied` holds the names applied by this call, in order; `version` is the newest applied name, null when none is. */
export interface MigrateResult {
  readonly applied: string[]
  readonly version: string | null
}

// One lock for all sets: they share the bookkeeping schema. 'lease' in ASCII.
const lockKey = '465524354917'

/**
 * Applies what is missing, in order, each file in its own transaction.
 *
 * Does nothing to a database that is up to date, except taking the fingerprint anew after a PostgreSQL major upgrade.
 * Throws {@link SchemaVersionError} ('ahead', 'changed-file', 'tampered') and changes nothing; LeaseholdError
 * 'MIGRATION_LOCKED' when another process or a table lock held on for too long, 'WORKERS_LIVE' when a file says `-- drain`
 * and workers live, 'MIGRATION_FAILED' with file and line.
 */
export async function migrate(target: string | Pool, options: MigrateOptions = {}): Promise<MigrateResult> {
  if (typeof target !== 'string') return migratePool(target, options)
  const pool = openPool({ connectionString: target, applicationName: 'leasehold migrate', max: 1 })
  try {
    return await migratePool(pool, options)
  } finally {
    await pool.end()
  }
}

async function migratePool(pool: Pool, options: MigrateOptions): Promise<MigrateResult> {
  const set = { ...(options.set ?? leaseholdMigrations), ...(options.folder && { folder: options.folder }) }
  if (!/^[a-z][a-z0-9_]{0,40}$/.test(set.name))
    throw new TypeError(`not a name for a migration set: ${set.name}`)
  const files = await readMigrations(set.folder)
  const client = await pool.connect()
  const applied: string[] = []
  let broken = true
  try {
    for (;;) {
      const name = await applyNext(client, set, files, options)
      if (name === null) break
      applied.push(name)
    }
    broken = false
  } finally {
    client.release(broken)
  }
  return { applied, version: files.at(-1)?.name ?? null }
}

/** One transaction: applies the first missing file and returns its name, or null when none is missing. */
async function applyNext(
  client: PoolClient,
  set: MigrationSet,
  files: readonly MigrationFile[],
  options: MigrateOptions,
): Promise<string | null> {
  const { applyFile, migrationTransaction } = await import('./migrator.ts')
  return migrationTransaction(client, async (trx) => {
    await lock(client, options.waitMs ?? 300_000)
    await createBookkeeping(client)
    const status = await compareSchema(client, set, files)
    refuseUnsound(status)
    const next = status.pending[0]
    if (next !== undefined) {
      refuseLate(next, status.databaseVersion)
      await client.query("select set_config('lock_timeout', $1, true)", [
        `${options.lockTimeoutMs ?? 15_000}ms`,
      ])
      const file = files.find((f) => f.name === next)
      if (file?.drainFirst === true) await refuseWhileWorking(client, set, file)
      await applyFile(trx, client, set, files)
      await client.query(
        `insert into ${bookkeepingSchema}.checksums (set_name, name, sha256, drain_first) values ($1, $2, $3, $4)`,
        [set.name, next, file?.sha256, file?.drainFirst],
      )
    }
    if (next !== undefined || !status.objectsCompared) await storeFingerprint(client, set)
    return next ?? null
  })
}

function refuseUnsound(status: SchemaStatus): void {
  if (status.state === 'ahead' || status.state === 'changed-file' || status.state === 'tampered') {
    throw new SchemaVersionError({ problem: status.state, ...status })
  }
}

/** A file that arrives below one already applied would run in another order here than on a fresh database. */
function refuseLate(next: string, databaseVersion: string | null): void {
  if (databaseVersion === null || next > databaseVersion) return
  throw new LeaseholdError(
    'MIGRATIONS',
    `Migration ${next} sorts before ${databaseVersion}, which is applied already. Give the file a higher number.`,
  )
}

async function lock(client: PoolClient, waitMs: number): Promise<void> {
  // What files leave unqualified means pg_catalog, or else public, whatever the login's search_path.
  await client.query(
    `select pg_catalog.set_config('lock_timeout', $1, true), pg_catalog.set_config('statement_timeout', '0', true),
      pg_catalog.set_config('search_path', 'public', true)`,
    [`${waitMs}ms`],
  )
  try {
    await client.query(`select pg_advisory_xact_lock(${lockKey})`)
  } catch (cause) {
    if (errorCode(cause) !== '55P03') throw cause
    throw new LeaseholdError(
      'MIGRATION_LOCKED',
      `Another process has been migrating this database for more than ${waitMs / 1000} s. ` +
        'Look for it in pg_stat_activity (application_name "leasehold migrate"), then run this again.',
      { cause },
    )
  }
}

/** The tables hold names and digests only; every role may read them, because every process checks at its start. */
async function createBookkeeping(client: PoolClient): Promise<void> {
  const { rows } = await client.query<{ made: boolean; complete: boolean }>(
    `select to_regclass('${bookkeepingSchema}.fingerprints') is not null as made, exists (
       select from pg_attribute a where a.attrelid = to_regclass('${bookkeepingSchema}.checksums') and a.attname = 'drain_first'
     ) as complete`,
  )
  if (rows[0]?.complete) return
  if (rows[0]?.made) {
    await client.query(`alter table ${bookkeepingSchema}.checksums add column drain_first boolean`)
    return
  }
  await client.query(`
    create schema if not exists ${bookkeepingSchema};
    create table ${bookkeepingSchema}.checksums (
      set_name text not null,
      name text not null,
      sha256 text not null,
      drain_first boolean,
      applied_at timestamptz not null default clock_timestamp(),
      primary key (set_name, name)
    );
    create table ${bookkeepingSchema}.fingerprints (
      set_name text primary key,
      server_major int not null,
      objects jsonb not null,
      taken_at timestamptz not null default clock_timestamp()
    );
    grant usage on schema ${bookkeepingSchema} to public;
    grant select on ${bookkeepingSchema}.checksums, ${bookkeepingSchema}.fingerprints to public;
  `)
}

/**
 * A file that says `-- drain` waits for no program and stops none: it is refused while one works. The lock keeps new ones
 * from registering until it is applied; register_worker then refuses those that do not know it.
 */
async function refuseWhileWorking(client: PoolClient, set: MigrationSet, file: MigrationFile): Promise<void> {
  const workers = `${set.schema}.workers`
  const found = await client.query('select from pg_class where oid = to_regclass($1)', [workers])
  if (found.rowCount === 0) return
  await client
    .query(`lock table ${workers} in share row exclusive mode`)
    .catch((cause: unknown) => refuseFile(file, cause))
  const { rows } = await client.query<{ slot: string }>(
    `select slot from ${workers} where ended_at is null order by slot`,
  )
  if (rows.length === 0) return
  const slots = rows.slice(0, 5).map((row) => row.slot)
  throw new LeaseholdError(
    'WORKERS_LIVE',
    `Migration ${file.name} must not be applied while older programs work, and ${rows.length} do: ` +
      `${slots.join(', ')}${rows.length > 5 ? ', …' : ''}. Nothing was changed. Stop what would start them again, ` +
      'run `npx leasehold drain --all --wait`, then migrate again.',
  )
}

async function storeFingerprint(client: PoolClient, set: MigrationSet): Promise<void> {
  const { objects, major } = await takeFingerprint(client, set.schema)
  await client.query(
    `insert into ${bookkeepingSchema}.fingerprints (set_name, server_major, objects) values ($1, $2, $3)
     on conflict (set_name) do update
     set server_major = excluded.server_major, objects = excluded.objects, taken_at = clock_timestamp()`,
    [set.name, major, JSON.stringify(objects)],
  )
}
