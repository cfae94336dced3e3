/**
 * What the database's schema is, compared with what this program expects. Reads only.
 *
 * Invariant: a process that passed `assertSchema` works on the schema its code was written for, or on a newer one that its
 * migrations promise to be good for older programs (they do unless they say `-- drain`). Order of judgement: unmigrated,
 * ahead, edited files, changed by hand, behind; the first that applies is the answer.
 * Mending is the migrator's (migrate.ts) or the operator's work.
 */
import { type SchemaProblem, SchemaVersionError } from '@leasehold/queue'
import type { ClientBase, Pool } from 'pg'
import { type Fingerprint, differences, takeFingerprint } from './fingerprint.ts'
import {
  type MigrationFile,
  type MigrationSet,
  leaseholdMigrations,
  readMigrations,
} from './migration-files.ts'

/** Where the bookkeeping lives: outside of the schemas it watches, so that these dump and drop cleanly. */
export const bookkeepingSchema = 'leasehold_migrations'

/** The judgement as data. Versions are migration names without `.sql`; null means none. */
export interface SchemaStatus {
  readonly state: 'current' | SchemaProblem
  readonly databaseVersion: string | null
  readonly programVersion: string | null
  /** Files which the database lacks, in order. */
  readonly pending: readonly string[]
  /** Migrations newer than this program with which it can work all the same. */
  readonly newer: readonly string[]
  /** Edited files, unknown migrations, or objects changed by hand; all of them. */
  readonly differing: readonly string[]
  /** False when the fingerprint was taken by another PostgreSQL major and cannot be compared; migrate takes a new one. */
  readonly objectsCompared: boolean
}

/** Which migrations to compare with; Leasehold's own by default. */
export interface SchemaOptions {
  readonly set?: MigrationSet
  readonly folder?: string
}

/** Judges the schema without changing anything; see {@link SchemaStatus}. */
export async function schemaStatus(
  db: Pool | ClientBase,
  options: SchemaOptions = {},
): Promise<SchemaStatus> {
  const set = { ...(options.set ?? leaseholdMigrations), ...(options.folder && { folder: options.folder }) }
  return compareSchema(db, set, await readMigrations(set.folder))
}

/**
 * Passes when this program can work on the schema and answers with what was found; else throws {@link SchemaVersionError}
 * with at most five names.
 */
export async function assertSchema(
  db: Pool | ClientBase,
  options: SchemaOptions = {},
): Promise<SchemaStatus> {
  const status = await schemaStatus(db, options)
  if (status.state === 'current') return status
  throw new SchemaVersionError({ problem: status.state, ...status, differing: status.differing.slice(0, 5) })
}

/** {@link schemaStatus} with the files already read. */
export async function compareSchema(
  db: Pool | ClientBase,
  set: MigrationSet,
  files: readonly MigrationFile[],
): Promise<SchemaStatus> {
  const applied = await readChecksums(db, set)
  const known = new Map(files.map((file) => [file.name, [file.sha256, ...file.formerly]]))
  const facts = {
    databaseVersion: [...applied.keys()].at(-1) ?? null,
    programVersion: files.at(-1)?.name ?? null,
    pending: files.map((file) => file.name).filter((name) => !applied.has(name)),
    newer: [...applied.keys()].filter((name) => !known.has(name)),
    differing: [] as readonly string[],
    objectsCompared: true,
  }
  const unknown = facts.newer.filter((name) => applied.get(name)?.drainFirst !== false)
  const edited = [...applied]
    .filter(([name, { sha256 }]) => known.get(name)?.includes(sha256) === false)
    .map(([name]) => name)
  if (applied.size === 0) return { ...facts, state: files.length === 0 ? 'current' : 'unmigrated' }
  if (unknown.length > 0) return { ...facts, state: 'ahead', differing: unknown }
  if (edited.length > 0) return { ...facts, state: 'changed-file', differing: edited }
  const objects = await compareObjects(db, set)
  // A change by hand outranks missing files: the migrator must not build on it.
  if (objects.differing.length > 0) return { ...facts, ...objects, state: 'tampered' }
  return { ...facts, ...objects, state: facts.pending.length > 0 ? 'behind' : 'current' }
}

interface Applied {
  readonly sha256: string
  /** Null: applied before this was kept. */
  readonly drainFirst: boolean | null
}

/** Applied names in order; empty when the database was never migrated. */
async function readChecksums(db: Pool | ClientBase, set: MigrationSet): Promise<Map<string, Applied>> {
  const exists = await db.query(
    `select from pg_class where oid = to_regclass('${bookkeepingSchema}.checksums')`,
  )
  if (exists.rowCount === 0) return new Map()
  // Read as JSON, because an older bookkeeping lacks the column.
  const { rows } = await db.query<Applied & { name: string }>(
    `select name, sha256, (to_jsonb(c) ->> 'drain_first')::boolean as "drainFirst" from ${bookkeepingSchema}.checksums c where set_name = $1 order by name collate "C"`,
    [set.name],
  )
  return new Map(rows.map((row) => [row.name, row]))
}

async function compareObjects(
  db: Pool | ClientBase,
  set: MigrationSet,
): Promise<{ differing: readonly string[]; objectsCompared: boolean }> {
  const stored = await db.query<{ server_major: number; objects: Fingerprint }>(
    `select server_major, objects from ${bookkeepingSchema}.fingerprints where set_name = $1`,
    [set.name],
  )
  const live = await takeFingerprint(db, set.schema)
  const row = stored.rows[0]
  if (row === undefined || row.server_major !== live.major) return { differing: [], objectsCompared: false }
  return { differing: differences(row.objects, live.objects), objectsCompared: true }
}
