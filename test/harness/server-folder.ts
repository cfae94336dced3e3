/**
 * Where the throw-away servers of tests keep their files: in memory where there is room, because nothing of them is to
 * outlive the run and half of their time would go into a disk.
 *
 * Only data goes there, no programs: such a place may forbid to run them. Whoever makes a folder removes it.
 */
import { mkdtemp, statfs } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const inMemory = '/dev/shm'
const roomBytes = 4 * 1024 ** 3

/** A new folder for a server's data directory. */
export async function makeServerFolder(prefix: string): Promise<string> {
  return mkdtemp(join((await hasRoom()) ? inMemory : tmpdir(), prefix))
}

async function hasRoom(): Promise<boolean> {
  try {
    const { bavail, bsize } = await statfs(inMemory)
    return bavail * bsize >= roomBytes
  } catch {
    return false
  }
}
