/**
 * `leasehold db …` and `leasehold migrate`: the embedded server in the foreground, and the schema.
 *
 * Invariant: `db start` owns the server it started and stops it when it ends; a server that somebody else started is left
 * alone. The address is printed without its password, except by `db url`, whose purpose it is.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { findEmbedded, nameDataDir, resolveDatabase, startEmbedded, stopEmbedded } from '@leasehold/postgres'
import { onShutdown, readConfig } from '@leasehold/service'
import type { Command } from 'commander'
import { type Context, locateDatabase, show } from '../context.ts'
import { exitCodes } from '../exit-codes.ts'
import { CommandError, usageError, withoutPasswords } from '../failure.ts'
import { wholeNumber } from '../options.ts'
import { migrateAll } from '../pipeline.ts'

/** Adds the commands to the program. */
export function addDatabaseCommands(program: Command, context: Context): void {
  const db = program.command('db').description('the embedded PostgreSQL, used when DATABASE_URL is not set')
  db.command('start')
    .description('run it in the foreground; Ctrl-C stops it')
    .option('--port <port>', 'a port to insist on (default: the one of last time)', wholeNumber(1, 65_535))
    .action((options: { port?: number }) => startDatabase(context, options.port))
  db.command('url')
    .description('print its address with the password, for psql "$(leasehold db url)"')
    .option('--json', 'print one JSON document')
    .action((options: { json?: boolean }) => printUrl(context, options.json))
  db.command('stop')
    .description('stop it, whoever started it')
    .action(() => stopDatabase(context))
  program
    .command('migrate')
    .description('bring the database to the version of this program; safe to run any number of times at once')
    .option('--json', 'print one JSON document')
    .action((options: { json?: boolean }) => migrateDatabase(context, options.json))
}

async function startDatabase(context: Context, port: number | undefined): Promise<void> {
  const { database } = readConfig(context.environment, 'cli')
  if (database.url !== null) {
    throw usageError(
      'DATABASE_URL is set, so nothing embedded is used',
      'unset DATABASE_URL to use the embedded server',
    )
  }
  const server = await startEmbedded({ dataDir: database.dataDir, ...(port !== undefined && { port }) })
  const address = withoutPasswords(server.url)
  if (!server.started) {
    context.terminal.note(`It runs already (pid ${server.pid}): ${address}`)
    context.exitCode = exitCodes.nothingDone
    return
  }
  const stop = new AbortController()
  const unwatch = onShutdown({ drain: () => stop.abort(), stopNow: () => stop.abort() })
  try {
    context.terminal.out(`database ready: ${address} (pid ${server.pid}, data in ${server.dataDir})`)
    context.terminal.note(
      'connect: psql "$(npx leasehold db url)"   next: npx leasehold migrate   stop: Ctrl-C',
    )
    await serverEnd(server.pid, stop.signal)
    if (!stop.signal.aborted) {
      throw new CommandError(
        'EMBEDDED',
        `The database server (pid ${server.pid}) ended by itself`,
        `its log is in ${server.dataDir}; npx leasehold db start starts it again`,
        exitCodes.failed,
      )
    }
  } finally {
    await server.stop()
    unwatch()
  }
  context.terminal.note('database stopped')
}

/** Returns when the process is gone or the signal is given. The server is no child of ours: there is no event for it. */
async function serverEnd(pid: number, signal: AbortSignal): Promise<void> {
  while (!signal.aborted && isAlive(pid)) await delay(500, undefined, { signal }).catch(() => {})
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    // It lives and belongs to another user.
    return error instanceof Error && 'code' in error && error.code === 'EPERM'
  }
}

async function printUrl(context: Context, json: boolean | undefined): Promise<void> {
  const { url, embedded } = await locateDatabase(readConfig(context.environment, 'cli'))
  show(context, json, { url, embedded }, () => url)
}

async function stopDatabase(context: Context): Promise<void> {
  const { database } = readConfig(context.environment, 'cli')
  const running = await findEmbedded(database.dataDir)
  if (await stopEmbedded(database.dataDir)) {
    context.terminal.out(running === null ? 'database stopped' : `database stopped (pid ${running.pid})`)
    return
  }
  context.terminal.note(`No embedded database runs in ${await nameDataDir(database.dataDir)}`)
  context.exitCode = exitCodes.nothingDone
}

async function migrateDatabase(context: Context, json: boolean | undefined): Promise<void> {
  const { database } = readConfig(context.environment, 'cli')
  const resolved = await resolveDatabase({
    databaseUrl: database.url ?? undefined,
    dataDir: database.dataDir,
  })
  try {
    const results = await migrateAll(resolved.url)
    const applied = results.flatMap((result) => result.applied.map((name) => `${result.set}: ${name}`))
    // Which one it was: with DATABASE_URL forgotten it is the embedded one, and that must be seen.
    const { host, pathname } = new URL(resolved.url)
    const where = `${host}${pathname}${database.url === null ? ', the embedded server' : ''}`
    show(context, json, results, () =>
      applied.length === 0
        ? `up to date (${where}): ${results.map((result) => `${result.set} ${result.version}`).join(', ')}`
        : applied.map((name) => `applied ${name} (${where})`).join('\n'),
    )
  } finally {
    await resolved.stop()
  }
}
