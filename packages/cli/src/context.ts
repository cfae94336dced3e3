/**
 * What every command is given: environment, terminal, input; and the database when it asks for it.
 *
 * Invariant: a command that only reads starts nothing: without DATABASE_URL it uses the embedded server when one runs
 * and says how to start it otherwise. Connections are closed when the command ends, however it ends.
 */
import { findEmbedded, hasCluster, nameDataDir, openPool, startEmbedded } from '@leasehold/postgres'
import { type Db, onSnapshot } from '@leasehold/queue'
import { type Config, type Environment, readConfig } from '@leasehold/service'
import type { Readable } from 'node:stream'
import type { Pool } from 'pg'
import { type ExitCode, exitCodes } from './exit-codes.ts'
import { CommandError } from './failure.ts'
import { safeJson } from './terminal/printable.ts'
import type { Terminal } from './terminal/terminal.ts'

export interface Context {
  readonly environment: Environment
  readonly terminal: Terminal
  readonly stdin: Readable
  /** Set by the command that ran; the process exits with it. */
  exitCode: ExitCode
}

/** The database of a command. */
export interface Session {
  readonly pool: Pool
  readonly config: Config
  /** The address, for those who need another connection; never to be shown. */
  readonly url: string
  readonly embedded: boolean
  /** Several reads that fit together; each may take a minute. */
  readonly read: <T>(work: (tx: Db) => Promise<T>) => Promise<T>
}

const readTimeoutMs = 60_000

/**
 * Opens the database for a command and closes it afterwards. `startStopped`: an embedded one that was stopped is started for
 * as long as the command takes, because what it reads is there to stay. Throws ConfigError, CommandError 'NO_DATABASE'.
 */
export async function withDatabase<T>(
  context: Context,
  work: (session: Session) => Promise<T>,
  { startStopped = false }: { readonly startStopped?: boolean } = {},
): Promise<T> {
  const config = readConfig(context.environment, 'cli')
  const { dataDir } = config.database
  const starts =
    startStopped &&
    config.database.url === null &&
    (await findEmbedded(dataDir)) === null &&
    (await hasCluster(dataDir))
  const started = starts
    ? await startEmbedded({ dataDir, log: (event) => context.terminal.note(event) })
    : null
  try {
    return await onDatabase(config, work)
  } finally {
    await started?.stop()
  }
}

async function onDatabase<T>(config: Config, work: (session: Session) => Promise<T>): Promise<T> {
  const { url, embedded } = await locateDatabase(config)
  const pool = openPool({ connectionString: url, applicationName: 'leasehold cli', max: 4 })
  try {
    return await work({
      pool,
      config,
      url,
      embedded,
      read: (reads) => onSnapshot(pool, readTimeoutMs, reads),
    })
  } finally {
    await pool.end()
  }
}

/** The database that is there already: DATABASE_URL's, else the running embedded one. */
export async function locateDatabase(config: Config): Promise<{ url: string; embedded: boolean }> {
  if (config.database.url !== null) return { url: config.database.url, embedded: false }
  const server = await findEmbedded(config.database.dataDir)
  if (server !== null) return { url: server.url, embedded: true }
  throw new CommandError(
    'NO_DATABASE',
    `DATABASE_URL is not set and no embedded database runs in ${await nameDataDir(config.database.dataDir)}`,
    'start it: npx leasehold db start (or set DATABASE_URL, or LEASEHOLD_DATA_DIR)',
    exitCodes.failed,
  )
}

/** Shows a result: one JSON document with `json`, else what `text` makes for people. */
export function show(context: Context, json: boolean | undefined, value: unknown, text: () => string): void {
  context.terminal.out(json === true ? safeJson(value) : text())
}
