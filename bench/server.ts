/**
 * The one real PostgreSQL that every system of a run is measured on, and a fresh database for each measurement.
 *
 * Durable settings (fsync, synchronous_commit on), the same for all; printed with the result. Bounded by the run: the
 * server and its files are gone when the run ends.
 */
import { rmSync } from 'node:fs'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startEmbedded } from '@leasehold/postgres'
import { Client } from 'pg'

/** What was measured on; printed and kept with the figures. */
export const shownSettings = [
  'server_version',
  'fsync',
  'synchronous_commit',
  'full_page_writes',
  'wal_compression',
  'shared_buffers',
  'max_wal_size',
  'max_connections',
  'autovacuum_naptime',
  'shared_preload_libraries',
] as const

/** A started server. */
export interface BenchServer {
  readonly settings: Record<string, string>
  readonly postmaster: number
  /** Makes an empty database and answers with its address. */
  freshDatabase(): Promise<string>
  /** Removes it, so that a long run does not fill the disk. */
  dropDatabase(url: string): Promise<void>
  stop(): Promise<void>
}

/** Beside the embedded server's defaults: room for 64 processes, and statistics that W4 switches on for its databases. */
const own = {
  max_connections: '1000',
  shared_preload_libraries: 'pg_stat_statements',
  'pg_stat_statements.track': 'none',
}

/** Starts the server in a folder of its own. */
export async function startServer(): Promise<BenchServer> {
  const dataDir = await mkdtemp(join(tmpdir(), 'leasehold-bench-'))
  const server = await startEmbedded({ dataDir, settings: own })
  const admin = new Client({ connectionString: server.url })
  await admin.connect()
  const settings: Record<string, string> = {}
  for (const name of shownSettings) {
    const { rows } = await admin.query<{ value: string }>('select current_setting($1) as value', [name])
    settings[name] = rows[0]!.value
  }
  let count = 0
  return {
    settings,
    postmaster: server.pid,
    async freshDatabase() {
      const name = `bench_${++count}`
      await admin.query(`create database ${name}`)
      const url = new URL(server.url)
      url.pathname = `/${name}`
      return url.href
    },
    async dropDatabase(url) {
      await admin.query(`drop database if exists ${new URL(url).pathname.slice(1)} with (force)`)
    },
    async stop() {
      await admin.end()
      await server.stop()
      rmSync(dataDir, { recursive: true, force: true })
    },
  }
}
