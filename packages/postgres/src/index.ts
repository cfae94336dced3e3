/**
 * The public face of @leasehold/postgres: connections, the migrator, the embedded server.
 *
 * Other packages import from this file only. What a task is, nobody here knows; that is @leasehold/queue.
 */
export { nameDataDir, ownDataDir } from './embedded/data-dir.ts'
export {
  type EmbeddedOptions,
  type EmbeddedServer,
  findEmbedded,
  hasCluster,
  startEmbedded,
  stopEmbedded,
} from './embedded/server.ts'
export { type MigrateOptions, type MigrateResult, migrate } from './migrate.ts'
export { type MigrationSet, leaseholdMigrations } from './migration-files.ts'
export { Listener, type ListenerOptions } from './listener.ts'
export { OutageLog, retryDelayMs, sleep } from './outage.ts'
export { type PoolOptions, isFailover, openPool } from './pool.ts'
export { type ReadyDatabase, type ReadyOptions, withReadyDatabase } from './ready-database.ts'
export { type ResolvedDatabase, resolveDatabase } from './resolve-database.ts'
export { type SchemaOptions, type SchemaStatus, assertSchema, schemaStatus } from './schema-status.ts'
export { within } from './within.ts'
