/**
 * Folders in the making, which several processes may make at once.
 *
 * Invariant: what stands in its place is whole. It is made under a name of its maker's, on the same disk, and renamed: of
 * several makers the first one's stays, and of one that died nothing but its draft, which the next one removes.
 */
import { randomBytes } from 'node:crypto'
import { readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { errorCode } from '../error-code.ts'
import { isAlive } from './program.ts'

/** A name in `folder` that nobody else uses, for a draft of this process. */
export function draftPath(folder: string, kind: string): string {
  return join(folder, `${kind}-${process.pid}-${randomBytes(4).toString('hex')}`)
}

/** Puts a finished folder where it belongs. When another process was quicker, its folder stays, and the draft is left. */
export async function putInPlace(draft: string, place: string): Promise<void> {
  await rename(draft, place).catch((error: unknown) => {
    const code = errorCode(error)
    if (code !== 'ENOTEMPTY' && code !== 'EEXIST') throw error
  })
}

/** Removes the drafts of processes that died on the way. */
export async function removeAbandoned(folder: string, kind: string): Promise<void> {
  for (const entry of await readdir(folder)) {
    const [, of, owner] = /^([a-z]+)-(\d+)-/.exec(entry) ?? []
    if (of === kind && !isAlive(Number(owner)))
      await rm(join(folder, entry), { recursive: true, force: true })
  }
}
