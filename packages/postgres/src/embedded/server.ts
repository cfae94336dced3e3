/**
 * The embedded server: one real PostgreSQL for a data directory, on loopback, shared by all processes that ask for it.
 *
 * Invariant: at most one server runs on a data directory, which PostgreSQL's own `postmaster.pid` guarantees; whoever
 * loses the race to start it uses the winner's. The server has a session of its own, so Ctrl-C in a terminal reaches the
 * workers and not the database under them; the process that started it stops it last, through `stop()`.
 * Refuses to decide between this and a DATABASE_URL; that is resolve-database.ts.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { open, readFile, readdir, stat, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { LeaseholdError } from '@leasehold/queue'
import { Client } from 'pg'
import { errorCode } from '../error-code.ts'
import { type Account, chooseAccount } from './account.ts'
import { type Binaries, findBinaries } from './binaries.ts'
import { reachableBinaries } from './binaries-copy.ts'
import {
  type ClusterPaths,
  clusterPaths,
  embeddedDatabase,
  embeddedUser,
  ensureCluster,
  readPassword,
} from './cluster.ts'
import { dataDirPath, findDataDir, makeDataDir } from './data-dir.ts'
import { type Postmaster, readPostmaster, removeStalePid } from './postmaster.ts'
import { isAlive, programEnvironment } from './program.ts'

/** How the embedded server is started; only the folder is needed. */
export interface EmbeddedOptions {
  /** Holds everything of the server; made when missing. Null: the working directory's own, see data-dir.ts. */
  readonly dataDir: string | null
  /** A port to insist on; default: the one of last time when it is free, else any free one. */
  readonly port?: number
  /** A folder with another PostgreSQL's `initdb` and `postgres`. */
  readonly binDir?: string
  /** Server settings that outrank postgresql.conf. */
  readonly settings?: Readonly<Record<string, string>>
  /** For throw-away data only: nothing is ever flushed to disk, a power cut destroys the cluster. */
  readonly ephemeral?: boolean
  /** Longest wait until the server answers, crash recovery included; default 5 min. */
  readonly startTimeoutMs?: number
  /** Where root keeps what the server's account cannot reach, in order of preference; for tests. */
  readonly places?: readonly string[]
  /** Told about the few events worth a line: made, started, attached, stopped. */
  readonly log?: (event: string) => void
}

/** A running server. `url` carries the password; it leads to the database made for Leasehold. */
export interface EmbeddedServer {
  readonly url: string
  readonly port: number
  readonly dataDir: string
  readonly pid: number
  /** True when this call started the server, false when it was running already. */
  readonly started: boolean
  /** Stops the server when this call started it, and waits for its end; otherwise does nothing. */
  stop(): Promise<void>
}

/**
 * Answers with the running server of the data directory, starting it (and making the cluster) when there is none.
 *
 * Returns when the server takes connections. A server killed before recovers by itself first.
 * Throws LeaseholdError 'EMBEDDED' with what to do when it cannot run here.
 */
export async function startEmbedded(options: EmbeddedOptions): Promise<EmbeddedServer> {
  const log = options.log ?? (() => {})
  const running = await findEmbedded(options.dataDir)
  if (running !== null) {
    log('attached to the running database server')
    return running
  }
  const account = await chooseAccount(clusterPaths(dataDirPath(options.dataDir)).data)
  const binaries = await reachableBinaries(await findBinaries(options.binDir), account, options.places)
  const paths = clusterPaths(await makeDataDir(options.dataDir, account, { log, places: options.places }))
  await ensureCluster(paths, binaries, account, { ephemeral: options.ephemeral ?? false })
  const deadline = Date.now() + (options.startTimeoutMs ?? 300_000)
  const graceUntil = Math.min(deadline, Date.now() + 30_000)
  let portsTaken = 0
  for (;;) {
    await removeStalePid(paths.data)
    const port = options.port ?? (await choosePort(paths))
    const outcome = await launch(paths, binaries, account, { ...options, port }, deadline)
    if (typeof outcome === 'string') {
      // Processes of a server that was killed end a moment after it; one that starts beside us writes its file a moment later.
      if (inTheWayForAMoment.test(outcome) && Date.now() < graceUntil) {
        await delay(100)
        continue
      }
      const taken = !(await isFree(port))
      // Somebody took the port between our look at it and the server's.
      if (taken && options.port === undefined && ++portsTaken < 8) continue
      throw startFailure(paths, taken ? `port ${port} is taken` : outcome)
    }
    const server = await describe(paths, outcome.postmaster, outcome.started)
    if (server === null) throw startFailure(paths, 'it refuses our password')
    await writeFile(paths.portFile, `${server.port}\n`)
    log(outcome.started ? 'database server started' : 'attached to the running database server')
    return server
  }
}

/** The running server of a data directory, or null when none is ready there. Starts and changes nothing. */
export async function findEmbedded(dataDir: string | null): Promise<EmbeddedServer | null> {
  const root = await findDataDir(dataDir)
  if (root === null) return null
  const paths = clusterPaths(root)
  const postmaster = await readPostmaster(paths.data)
  return postmaster?.ready ? describe(paths, postmaster, false) : null
}

/** Whether a data directory holds a cluster, running or not. */
export async function hasCluster(dataDir: string | null): Promise<boolean> {
  const root = await findDataDir(dataDir)
  return root !== null && existsSync(join(clusterPaths(root).data, 'PG_VERSION'))
}

/** Stops the server of a data directory, whoever started it. Answers false when none was running. */
export async function stopEmbedded(dataDir: string | null): Promise<boolean> {
  const root = await findDataDir(dataDir)
  const postmaster = root === null ? null : await readPostmaster(clusterPaths(root).data)
  if (postmaster === null) return false
  await stopProcess(postmaster.pid)
  return true
}

const inTheWayForAMoment =
  /pre-existing shared memory block .* is still in use|lock file "postmaster\.pid" is empty/

type Launched = { readonly postmaster: Postmaster; readonly started: boolean }

/** Starts the program and waits until a server is ready: ours, or the one that was quicker. */
async function launch(
  paths: ClusterPaths,
  binaries: Binaries,
  account: Account,
  options: EmbeddedOptions & { port: number },
  deadline: number,
): Promise<Launched | string> {
  const said = await open(join(paths.root, 'startup.log'), 'w', 0o600)
  const ephemeral = { fsync: 'off', synchronous_commit: 'off', full_page_writes: 'off' }
  const settings = {
    port: String(options.port),
    listen_addresses: '127.0.0.1',
    unix_socket_directories: '',
    log_directory: paths.log,
    ...(options.ephemeral ? ephemeral : {}),
    ...options.settings,
  }
  const args = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])
  let ended = false
  const child = spawn(join(binaries.binDir, 'postgres'), ['-D', paths.data, ...args], {
    ...account,
    cwd: '/',
    env: programEnvironment,
    detached: true,
    stdio: ['ignore', said.fd, said.fd],
  })
  child.once('exit', () => (ended = true)).once('error', () => (ended = true))
  child.unref()
  await said.close()
  while (Date.now() < deadline) {
    const postmaster = await readPostmaster(paths.data)
    if (postmaster?.ready) return { postmaster, started: postmaster.pid === child.pid }
    if (ended && postmaster === null) return await whyEnded(paths)
    await delay(20)
  }
  if (!ended) child.kill('SIGINT')
  return 'it did not become ready in time'
}

/** The server says first things to startup.log; once its log collector runs, the rest goes to the log folder. */
async function whyEnded(paths: ClusterPaths): Promise<string> {
  const said = await readFile(join(paths.root, 'startup.log'), 'utf8').catch(() => '')
  const logs = (await readdir(paths.log)).map((name) => join(paths.log, name))
  const times = await Promise.all(logs.map(async (name) => (await stat(name)).mtimeMs))
  const newest = logs[times.indexOf(Math.max(...times))]
  const logged = newest === undefined ? '' : await readFile(newest, 'utf8').catch(() => '')
  const words = [...said.trim().split('\n'), ...logged.trim().split('\n').slice(-5)]
  return words.filter((line) => line !== '' && !line.includes('logging collector')).join('\n')
}

function startFailure(paths: ClusterPaths, why: string): LeaseholdError {
  return new LeaseholdError(
    'EMBEDDED',
    `The embedded PostgreSQL in ${paths.root} did not start: ${why}\nIts log is in ${paths.log}. ` +
      'Mend the cause there, choose another LEASEHOLD_DATA_DIR, or set DATABASE_URL.',
  )
}

/**
 * The port of last time keeps bookmarks, psql histories and the addresses of running daemons valid; when it is taken, a free
 * one. At best one that no system hands out by itself: while the server is down, any connection of any program might be
 * given its port otherwise.
 */
async function choosePort(paths: ClusterPaths): Promise<number> {
  const last = Number((await readFile(paths.portFile, 'utf8').catch(() => '')).trim())
  if (Number.isInteger(last) && last > 0 && last < 65_536 && (await isFree(last))) return last
  for (let tries = 0; tries < 20; tries += 1) {
    const port = 16_384 + Math.floor(Math.random() * 16_384)
    if (await isFree(port)) return port
  }
  const probe = createServer()
  probe.listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const address = probe.address()
  await new Promise((closed) => probe.close(closed))
  return address === null || typeof address === 'string' ? 0 : address.port
}

async function isFree(port: number): Promise<boolean> {
  const probe = createServer()
  try {
    probe.listen(port, '127.0.0.1')
    await once(probe, 'listening')
    await new Promise((closed) => probe.close(closed))
    return true
  } catch {
    return false
  }
}

/** Connects once to make sure that it is our server, and makes the database when it is missing. Null when it is not. */
async function describe(
  paths: ClusterPaths,
  postmaster: Postmaster,
  started: boolean,
): Promise<EmbeddedServer | null> {
  const password = await readPassword(paths)
  if (password === null) return null
  const base = `postgres://${embeddedUser}:${encodeURIComponent(password)}@127.0.0.1:${postmaster.port}`
  if (!(await ensureDatabase(`${base}/postgres`))) return null
  return {
    url: `${base}/${embeddedDatabase}`,
    port: postmaster.port,
    dataDir: paths.root,
    pid: postmaster.pid,
    started,
    stop: () => (started ? stopProcess(postmaster.pid) : Promise.resolve()),
  }
}

async function ensureDatabase(url: string): Promise<boolean> {
  const client = new Client({ connectionString: url, connectionTimeoutMillis: 10_000 })
  client.on('error', () => {})
  try {
    await client.connect()
    const found = await client.query('select from pg_database where datname = $1', [embeddedDatabase])
    if (found.rowCount === 0) await client.query(`create database ${embeddedDatabase}`).catch(ignoreDuplicate)
    return true
  } catch (error) {
    // Not answering, or answering to somebody else's password: then it is not this folder's server.
    const code = errorCode(error)
    if (code === 'ECONNREFUSED' || code === 'ECONNRESET' || code?.startsWith('28')) return false
    throw error
  } finally {
    await client.end().catch(() => {})
  }
}

function ignoreDuplicate(error: unknown): void {
  const code = errorCode(error)
  if (code !== '42P04' && code !== '23505') throw error
}

/** A fast shutdown: sessions end, a checkpoint is written. After a minute the server is told to stop without one. */
async function stopProcess(pid: number): Promise<void> {
  if (await endsBy(pid, 'SIGINT', 60_000)) return
  if (await endsBy(pid, 'SIGQUIT', 30_000)) return
  const what = `The database server (process ${pid}) does not stop; end it by hand.`
  throw new LeaseholdError('EMBEDDED', what)
}

async function endsBy(pid: number, signal: NodeJS.Signals, waitMs: number): Promise<boolean> {
  const deadline = Date.now() + waitMs
  try {
    process.kill(pid, signal)
  } catch (error) {
    if (errorCode(error) === 'ESRCH') return true
    throw error
  }
  while (Date.now() < deadline) {
    if (!isAlive(pid)) return true
    await delay(20)
  }
  return false
}
