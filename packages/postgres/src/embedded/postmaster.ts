/**
 * Reading `postmaster.pid`: who serves a data directory, on which port, and whether it is ready.
 *
 * Invariant: a file left behind by a killed server, or one whose process id now belongs to somebody else, counts as
 * nobody. The proof is the command line, on which the server was given its data directory.
 */
import { readFile, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { commandLine, isAlive } from './program.ts'

/** What the file says. `ready` is the server's own word. */
export interface Postmaster {
  readonly pid: number
  readonly port: number
  readonly ready: boolean
}

/** The living server of `data`, or null. */
export async function readPostmaster(data: string): Promise<Postmaster | null> {
  const text = await readFile(join(data, 'postmaster.pid'), 'utf8').catch(() => '')
  const lines = text.split('\n')
  const pid = Number(lines[0])
  if (!Number.isInteger(pid) || pid <= 0 || !isAlive(pid)) return null
  if (!(await commandLine(pid)).includes(serving(data))) return null
  return { pid, port: Number(lines[3]), ready: lines[7]?.trim() === 'ready' }
}

/**
 * Removes the file of a dead server whose process id has been given to another process; PostgreSQL itself would take
 * that process for its rival and refuse to start. A file of a plainly dead process it removes by itself.
 */
export async function removeStalePid(data: string): Promise<void> {
  const file = join(data, 'postmaster.pid')
  const pid = await firstLine(file)
  if (pid === null || !isAlive(pid)) return
  const command = await commandLine(pid)
  if (command === '' || command.includes(serving(data))) return
  // Moved aside first and looked at again, lest a server that started meanwhile loses its file.
  const aside = `${file}.${process.pid}`
  await rename(file, aside).catch(() => {})
  if ((await firstLine(aside)) === pid) await rm(aside, { force: true })
  else await rename(aside, file).catch(() => {})
}

/** How the server's command line begins after its program; server.ts starts it with exactly this. */
function serving(data: string): string {
  return ` -D ${data} `
}

async function firstLine(file: string): Promise<number | null> {
  const pid = Number((await readFile(file, 'utf8').catch(() => '')).split('\n')[0])
  return Number.isInteger(pid) && pid > 0 ? pid : null
}
