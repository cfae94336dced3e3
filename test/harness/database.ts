/**
 * A database for each test file: a clone of the migrated template, on the run's one server.
 *
 * Invariant: no two files share a database, so they may run side by side and leave rows behind. The clock runs, `advance`
 * moves it ahead; where a few seconds more or less would decide, a test stops it, and then time moves by `advance` only.
 * Roles are shared by the whole server: a test that makes one gives it a name of its own.
 */
import { openPool } from '@leasehold/postgres'
import { Client, type Pool } from 'pg'
import { inject } from 'vitest'
import { inDatabase } from './global-setup.ts'

/** One file's database. */
export interface TestDatabase {
  readonly url: string
  readonly name: string
  /** PostgreSQL's major version. */
  readonly major: number
  readonly pool: Pool
  /** A connected client of its own session, for races; ended by `drop` at the latest. */
  client(): Promise<Client>
  /** Moves the database's clock ahead. */
  advance(ms: number): Promise<void>
  /** Stops the database's clock. */
  stopClock(): Promise<void>
  /** Lets it go on; what passed meanwhile passes at once. */
  startClock(): Promise<void>
  /** Ends all clients and removes the database. */
  drop(): Promise<void>
}

let count = 0

/** Clones the template; with `empty`, makes a database that was never migrated. Call in `beforeAll`, drop in `afterAll`. */
export async function createTestDatabase(
  options: { empty?: boolean; max?: number } = {},
): Promise<TestDatabase> {
  const server = inject('testServer')
  if (!options.empty && server.templateError !== null) {
    throw new Error(`The migrations do not apply: ${server.templateError}`)
  }
  const name = `test_${process.pid}_${++count}_${Date.now().toString(36)}`
  const template = options.empty ? 'template0' : server.template
  // Files copied as files: the default since 15 writes all of them into the WAL as well.
  const strategy = server.major >= 15 ? 'strategy file_copy' : ''
  await asAdmin(`create database ${name} template ${template} ${strategy}`)
  const url = inDatabase(server.adminUrl, name)
  const pool = openPool({
    connectionString: url,
    applicationName: 'test',
    max: options.max ?? 10,
    userStatements: true,
  })
  const clients = new Set<Client>()
  return {
    url,
    name,
    major: server.major,
    pool,
    async client() {
      const client = new Client({ connectionString: url, application_name: 'test client' })
      // Tests end sessions on purpose; their queries report it.
      client.on('error', () => {})
      await client.connect()
      clients.add(client)
      return client
    },
    async advance(ms) {
      await pool.query("update leasehold_test.clock set ahead = ahead + $1 * interval '1 millisecond'", [ms])
    },
    async stopClock() {
      await pool.query('update leasehold_test.clock set stopped_at = pg_catalog.clock_timestamp()')
    },
    async startClock() {
      await pool.query('update leasehold_test.clock set stopped_at = null')
    },
    async drop() {
      await Promise.all([...clients].map((client) => client.end().catch(() => {})))
      await pool.end()
      await asAdmin(`drop database if exists ${name} with (force)`)
    },
  }
}

const objectInUse = '55006'

async function asAdmin(sql: string): Promise<void> {
  const admin = new Client({ connectionString: inject('testServer').adminUrl })
  await admin.connect()
  try {
    for (let tries = 1; ; tries++) {
      try {
        await admin.query(sql)
        return
      } catch (error) {
        // Sessions that were told to end have five seconds for it, which a busy machine may not give them.
        if ((error as { code?: string }).code !== objectInUse || tries === 12) throw error
      }
    }
  } finally {
    await admin.end()
  }
}
