/**
 * The place for what an embedded server of root's cannot use where it lies, because its account may not enter a folder
 * above: a copy of the programs (binaries-copy.ts), and the data (data-dir.ts).
 *
 * Invariant: the place is a folder of root's that everybody may enter and only root may write. One that is not is passed
 * over: in a temp folder anybody may have put it there.
 */
import { chmod, lstat, mkdir, realpath } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Account, closedFolder } from './account.ts'

// Not /var/lib/leasehold: systemd gives that one, with all that is below, to the login of its services.
const usualPlaces = ['/var/lib/leasehold-embedded', join(tmpdir(), 'leasehold-embedded')]

/** The first of the places that can be had; null when there is none. Only for a process of root. */
export async function openPlace(
  account: Account,
  places: readonly string[] = usualPlaces,
): Promise<string | null> {
  for (const place of places) {
    try {
      await mkdir(place, { recursive: true })
      const found = await lstat(place)
      if (!found.isDirectory() || found.uid !== 0 || (found.mode & 0o022) !== 0) continue
      await chmod(place, 0o755) // whatever the umask made of it
      const root = await realpath(place)
      if ((await closedFolder(join(root, 'inside'), account)) === null) return root
    } catch {
      // A disk that is read-only or full, a file of that name: the next one may do.
    }
  }
  return null
}
