/**
 * The server's settings, judged: what endangers committed tasks, and what slows a queue down.
 *
 * Refuses to change anything; each check says what to set. Checks of the queue itself are health.ts.
 */
import type { Db } from '../db.ts'
import type { HealthCheck } from './health.ts'

interface ServerSettings {
  readonly fsync: string
  readonly fullPageWrites: string
  readonly synchronousCommit: string
  readonly autovacuum: string
  /** Seconds. */
  readonly autovacuumNaptime: number
  /** Bytes. */
  readonly sharedBuffers: number
  readonly maxWalSize: number
  readonly maxConnections: number
  readonly usedConnections: number
  readonly encoding: string
}

const mebibyte = 1024 * 1024

/** PostgreSQL's major version. Needs no schema and no right. */
export async function serverMajor(db: Db): Promise<number> {
  const { rows } = await db.query<{ major: number }>(
    "select current_setting('server_version_num')::int / 10000 as major",
  )
  return rows[0]!.major
}

/** Judges the settings; `bad` means that a committed task can be lost. */
export async function settingsAdvice(db: Db): Promise<HealthCheck[]> {
  const { rows } = await db.query<ServerSettings & { encoding: string }>(`
    select current_setting('fsync') as fsync, current_setting('full_page_writes') as "fullPageWrites",
      current_setting('synchronous_commit') as "synchronousCommit", current_setting('autovacuum') as autovacuum,
      extract(epoch from current_setting('autovacuum_naptime')::interval)::float8 as "autovacuumNaptime",
      pg_size_bytes(current_setting('shared_buffers'))::float8 as "sharedBuffers",
      pg_size_bytes(current_setting('max_wal_size'))::float8 as "maxWalSize",
      current_setting('max_connections')::int as "maxConnections",
      (select count(*)::int from pg_stat_activity where backend_type = 'client backend') as "usedConnections",
      current_setting('server_encoding') as encoding`)
  const settings = rows[0]
  return settings === undefined ? [] : judge(settings)
}

function mebibytes(bytes: number): string {
  return `${Math.round(bytes / mebibyte)} MiB`
}

type Fault = 'bad' | 'warn' | null

function check(name: string, fault: Fault, value: string, advice: string): HealthCheck {
  return { name, status: fault ?? 'ok', value, advice }
}

function judge(s: ServerSettings): HealthCheck[] {
  const free = s.maxConnections - s.usedConnections
  return [
    check(
      'fsync',
      s.fsync === 'on' ? null : 'bad',
      s.fsync,
      'Set fsync = on: without it a power cut loses committed tasks and can destroy the cluster.',
    ),
    check(
      'full_page_writes',
      s.fullPageWrites === 'on' ? null : 'bad',
      s.fullPageWrites,
      'Set full_page_writes = on: without it a power cut can leave torn pages.',
    ),
    check(
      'synchronous_commit',
      s.synchronousCommit === 'off' ? 'warn' : null,
      s.synchronousCommit,
      'Off loses the last commits when the server crashes; accept that knowingly or set it to on.',
    ),
    check(
      'autovacuum',
      s.autovacuum === 'on' ? null : 'bad',
      s.autovacuum,
      'Set autovacuum = on: state tables churn, and without vacuum they only grow.',
    ),
    check(
      'autovacuum_naptime',
      s.autovacuumNaptime > 15 ? 'warn' : null,
      `${s.autovacuumNaptime} s`,
      'Set autovacuum_naptime = 5s: state tables are small and churn, they want to be vacuumed often.',
    ),
    check(
      'shared_buffers',
      s.sharedBuffers < 128 * mebibyte ? 'warn' : null,
      mebibytes(s.sharedBuffers),
      'Set shared_buffers to 256MB or more, a quarter of the memory on a server of its own.',
    ),
    check(
      'max_wal_size',
      s.maxWalSize < 1024 * mebibyte ? 'warn' : null,
      mebibytes(s.maxWalSize),
      'Set max_wal_size to 4GB: small ones force checkpoints while tasks stream through.',
    ),
    check(
      'connections',
      free < 10 ? 'warn' : null,
      `${s.usedConnections} of ${s.maxConnections}`,
      'Fewer than 10 are free: raise max_connections or put PgBouncer in front.',
    ),
    check(
      'server_encoding',
      s.encoding === 'UTF8' ? null : 'bad',
      s.encoding,
      'Create the database with encoding UTF8; payloads in other encodings are refused or mangled.',
    ),
  ]
}
