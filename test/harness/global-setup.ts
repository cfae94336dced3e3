/**
 * One PostgreSQL for a whole test run, with a migrated template database that each test file clones.
 *
 * Invariant: the template is what the migrations make, plus a clock that tests may move; production has no such switch.
 * LEASEHOLD_TEST_PG=14..18 chooses the version; LEASEHOLD_TEST_PG_BIN is the folder of another build of it, and
 * LEASEHOLD_TEST_POSTGRES=container uses a container engine instead of the embedded builds. Cloning and handing out databases is database.ts.
 */
import { migrate, openPool, startEmbedded } from '@leasehold/postgres'
import { rm } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import type { TestProject } from 'vitest/node'
import { makeServerFolder } from './server-folder.ts'

/** What global setup hands to the test files. */
export interface TestServer {
  /** Leads to the maintenance database, as superuser. */
  readonly adminUrl: string
  readonly template: string
  /** Why there is no template; tests without need of one still run. */
  readonly templateError: string | null
  readonly major: number
  /** The folder with this version's `postgres` and `initdb`; undefined for the default one. */
  readonly binDir: string | undefined
}

declare module 'vitest' {
  interface ProvidedContext {
    testServer: TestServer
  }
}

const settings = {
  shared_buffers: '128MB',
  max_connections: '200',
  max_prepared_transactions: '10',
  log_min_messages: 'fatal',
  // The files may lie in memory.
  max_wal_size: '256MB',
}

type Running = { readonly adminUrl: string; readonly binDir: string | undefined; stop(): Promise<void> }

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const major = Number(process.env['LEASEHOLD_TEST_PG'] ?? 18)
  if (![14, 15, 16, 17, 18].includes(major)) throw new Error('LEASEHOLD_TEST_PG is one of 14, 15, 16, 17, 18')
  const container = process.env['LEASEHOLD_TEST_POSTGRES'] === 'container'
  const server = container ? await startContainer(major) : await startThrowAway(major)
  const template = 'leasehold_template'
  const templateError = await buildTemplate(server.adminUrl, template).then(
    () => null,
    (error: unknown) => (error instanceof Error ? error.message : String(error)),
  )
  const { adminUrl, binDir } = server
  project.provide('testServer', { adminUrl, template, templateError, major, binDir })
  return () => server.stop()
}

async function startThrowAway(major: number): Promise<Running> {
  const dataDir = await makeServerFolder('leasehold-test-')
  const packaged = fileURLToPath(new URL(`../../node_modules/pg${major}/native/bin`, import.meta.url))
  const binDir = process.env['LEASEHOLD_TEST_PG_BIN'] ?? (major === 18 ? undefined : packaged)
  const server = await startEmbedded({ dataDir, ephemeral: true, settings, ...(binDir && { binDir }) })
  return {
    adminUrl: inDatabase(server.url, 'postgres'),
    binDir,
    async stop() {
      await server.stop()
      await rm(dataDir, { recursive: true, force: true })
    },
  }
}

async function startContainer(major: number): Promise<Running> {
  // Loaded only here: most runs have no container engine.
  const { PostgreSqlContainer } = await import('@testcontainers/postgresql')
  const flags = Object.entries({ ...settings, fsync: 'off' }).flatMap(([name, value]) => [
    '-c',
    `${name}=${value}`,
  ])
  const image = new PostgreSqlContainer(`postgres:${major}-alpine`)
  const started = await image
    .withDatabase('postgres')
    .withCommand(['postgres', ...flags])
    .start()
  return {
    adminUrl: started.getConnectionUri(),
    binDir: undefined,
    stop: async () => void (await started.stop()),
  }
}

async function buildTemplate(adminUrl: string, template: string): Promise<void> {
  const admin = openPool({ connectionString: adminUrl, applicationName: 'test setup', max: 1 })
  await admin.query(`create database ${template}`)
  const url = inDatabase(adminUrl, template)
  await migrate(url)
  const pool = openPool({ connectionString: url, applicationName: 'test setup', max: 1 })
  const clock = await pool.query("select from pg_proc where oid = to_regprocedure('leasehold.clock()')")
  if (clock.rowCount === 1) await pool.query(movableClock)
  await pool.end()
  await admin.query(`alter database ${template} with is_template true allow_connections false`)
  await admin.end()
}

// The same signature and volatility as in production; one row, read by everybody, moved and stopped by the test's superuser.
const movableClock = `
  create schema leasehold_test;
  create table leasehold_test.clock (ahead interval not null, stopped_at timestamptz);
  create unique index on leasehold_test.clock ((true));
  insert into leasehold_test.clock values ('0');
  grant usage on schema leasehold_test to public;
  grant select on leasehold_test.clock to public;
  create or replace function leasehold.clock() returns timestamptz
    language sql volatile parallel safe
    return (select coalesce(c.stopped_at, pg_catalog.clock_timestamp()) + c.ahead from leasehold_test.clock c);
`

/** The same server and login, another database. */
export function inDatabase(url: string, database: string): string {
  const parsed = new URL(url)
  parsed.pathname = `/${database}`
  return parsed.href
}
