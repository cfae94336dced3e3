/**
 * How the commands and the keeper of a folder find one another, and why there is never a second keeper.
 *
 * Invariant: who holds the folder's name in the kernel is its keeper. The name is free again the moment its holder ends, however
 * it ends: there is no file that could be stale, and of two that start at once one fails. (Such names exist on Linux only;
 * elsewhere the socket's file stands in, and two starts within the same millisecond could both succeed.)
 * Talk goes through a socket in a folder that only this user can enter: one line in, one line out.
 */
import { createHash } from 'node:crypto'
import { chmodSync, lstatSync, mkdirSync, realpathSync, rmSync } from 'node:fs'
import { createConnection, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { MemberState } from '../processes/fleet.ts'

/** `begun` is answered when every process has either shown that it works or ended, or took too long for both. */
export type Request = 'list' | 'begun' | 'stop' | 'stop-now'

/** A process as its keeper sees it. */
export interface KeptMember extends MemberState {
  /** The end of what it wrote, readably. */
  readonly lastLines: readonly string[]
}

/** What the keeper says of itself. */
export interface KeeperState {
  readonly pid: number
  readonly phase: 'starting' | 'running' | 'stopping'
  readonly database: string | null
  readonly members: readonly KeptMember[]
}

/** Another keeper has the folder. */
export class KeeperRunsError extends Error {}

/** Becomes the keeper of a folder: answers requests from now on. Throws {@link KeeperRunsError}. */
export async function becomeKeeper(
  folder: string,
  answer: (request: Request) => Promise<KeeperState>,
): Promise<() => void> {
  const { lock, path } = names(folder)
  const held = lock === null ? null : await listen(createServer(), lock)
  if (lock === null && (await ask(folder, 'list')) !== null) throw new KeeperRunsError(folder)
  // Whoever holds the name may clear what an earlier holder left behind.
  rmSync(path, { force: true })
  const server = createServer((socket) => {
    // Whoever waits for the end must not put it off.
    socket.unref().on('error', () => {})
    createInterface({ input: socket }).on('line', (line) => {
      void answer(line as Request).then((state) => socket.write(`${JSON.stringify(state)}\n`))
    })
  })
  await listen(server, path)
  return () => {
    server.close()
    held?.close()
    rmSync(path, { force: true })
  }
}

function listen(server: Server, name: string): Promise<Server> {
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) =>
      reject(error.code === 'EADDRINUSE' ? new KeeperRunsError(name) : error),
    )
    server.listen(name, () => {
      server.unref()
      resolve(server)
    })
  })
}

/** Asks the keeper of a folder; null when there is none. */
export async function ask(folder: string, request: Request): Promise<KeeperState | null> {
  const socket = createConnection(names(folder).path)
  try {
    return await new Promise<KeeperState | null>((resolve) => {
      socket.once('error', () => resolve(null))
      socket.once('close', () => resolve(null))
      createInterface({ input: socket })
        .once('line', (line) => resolve(JSON.parse(line) as KeeperState))
        .on('error', () => {})
      socket.write(`${request}\n`)
    })
  } finally {
    socket.destroy()
  }
}

/** A connection that closes when the keeper of a folder ends; null when there is none. */
export function hold(folder: string): Promise<Socket | null> {
  const socket = createConnection(names(folder).path)
  socket.on('error', () => {})
  return new Promise((resolve) => {
    socket.once('connect', () => resolve(socket))
    socket.once('error', () => resolve(null))
  })
}

function names(folder: string): { lock: string | null; path: string } {
  const uid = process.getuid?.() ?? 0
  const id = createHash('sha256').update(realpathSync(folder)).digest('hex').slice(0, 16)
  // Not TMPDIR: two shells of one user would see two keepers of one folder.
  const own = join(process.platform === 'win32' ? tmpdir() : '/tmp', `leasehold-${uid}`)
  mkdirSync(own, { recursive: true, mode: 0o700 })
  if (lstatSync(own).uid !== uid) throw new Error(`${own} belongs to another user; remove it`)
  chmodSync(own, 0o700)
  const lock = process.platform === 'linux' ? `\0leasehold-keeper-${uid}-${id}` : null
  return { lock, path: join(own, `${id}.sock`) }
}
