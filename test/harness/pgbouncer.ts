/**
 * A real PgBouncer in transaction mode in front of the test server, as an ordinary user on loopback.
 *
 * Three sessions of the server, taken in turns: two transactions of one client rarely meet the same one. The program must
 * be there; scripts/test.mjs leaves the tests that need it out where it is not, and says so.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { chown, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { keepablePort } from './loopback.ts'

/** A running pooler. */
export interface Pgbouncer {
  /** The same database and login as the address it was started with, through the pooler. */
  readonly url: string
  stop(): Promise<void>
}

/** PgBouncer refuses to run as root; this is `nobody` on Debian and elsewhere. */
const nobody = 65_534

/** Starts it in front of the server of `databaseUrl`; it answers when this resolves. */
export async function startPgbouncer(databaseUrl: string): Promise<Pgbouncer> {
  const folder = await mkdtemp(join(tmpdir(), 'leasehold-pgbouncer-'))
  const target = new URL(databaseUrl)
  const port = await keepablePort()
  const file = join(folder, 'pgbouncer.ini')
  const { hostname, username, password } = target
  await writeFile(
    file,
    `[databases]
* = host=${hostname} port=${target.port} user=${decodeURIComponent(username)} password=${decodeURIComponent(password)}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
server_round_robin = 1
max_client_conn = 200
`,
  )
  const asRoot = process.getuid?.() === 0
  if (asRoot) await Promise.all([folder, file].map((path) => chown(path, nobody, nobody)))
  const child = spawn('pgbouncer', [file], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { PATH: `${process.env['PATH']}:/usr/sbin` },
    ...(asRoot && { uid: nobody, gid: nobody }),
  })
  await untilItAnswers(child, port)
  const url = new URL(databaseUrl)
  url.port = String(port)
  url.hostname = '127.0.0.1'
  return {
    url: url.href,
    async stop() {
      const gone = new Promise((resolve) => child.once('close', resolve))
      if (child.exitCode === null && child.kill('SIGKILL')) await gone
      await rm(folder, { recursive: true, force: true })
    },
  }
}

async function untilItAnswers(child: ChildProcess, port: number): Promise<void> {
  let said = ''
  child.stderr?.on('data', (chunk: Buffer) => (said += chunk.toString()))
  const ended = new Promise<never>((_, reject) => {
    child.once('error', reject)
    child.once('exit', () => reject(new Error(`pgbouncer ended; it said:\n${said}`)))
  })
  ended.catch(() => {}) // it may end later, when that is wanted
  while (!(await Promise.race([reachable(port), ended]))) {
    await Promise.race([new Promise((resolve) => setTimeout(resolve, 20)), ended])
  }
}

function reachable(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    const answer = (yes: boolean) => {
      socket.destroy()
      resolve(yes)
    }
    socket.once('connect', () => answer(true)).once('error', () => answer(false))
  })
}
