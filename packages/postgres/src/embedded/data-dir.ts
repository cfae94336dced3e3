/**
 * Where the data lie: in the folder that was chosen, or in the working directory's own, `.leasehold`.
 *
 * Its own may be out of reach of the account that root's server runs under. Then the data lie in root's open place
 * (open-place.ts) and `.leasehold` is a link to them: whoever looks finds them, a clone that is moved keeps them, and
 * `rm .leasehold` lets go of them. Invariant: no two folders share data in that place; of the one they belong to, they
 * bear the name. Refuses to go elsewhere with a folder that was chosen, or one that holds anything: ensureCluster says
 * what to do then.
 */
import { mkdir, mkdtemp, readFile, readlink, realpath, rm, rmdir, symlink, writeFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { LeaseholdError } from '@leasehold/queue'
import { errorCode } from '../error-code.ts'
import { type Account, closedFolder } from './account.ts'
import { openPlace } from './open-place.ts'

/** The working directory's own data directory. */
export const ownDataDir = '.leasehold'

/** In a data directory that lies elsewhere: the path of the link it belongs to. */
const belongsTo = 'belongs-to'

/** The path under which a data directory is known; null: the working directory's own. */
export function dataDirPath(dataDir: string | null): string {
  return resolve(dataDir ?? ownDataDir)
}

/** Where the data really lie; null when there are none, or only another folder's. */
export async function findDataDir(dataDir: string | null): Promise<string | null> {
  const root = await realpath(dataDirPath(dataDir)).catch(() => null)
  return root !== null && dataDir === null && (await otherOwner(root)) !== null ? null : root
}

/** Where the data lie or, when there are none, would lie: for messages. */
export async function nameDataDir(dataDir: string | null): Promise<string> {
  return (await findDataDir(dataDir)) ?? dataDirPath(dataDir)
}

/** Makes the folder unless it is there, and answers where it really lies. Throws LeaseholdError 'EMBEDDED'. */
export async function makeDataDir(
  dataDir: string | null,
  account: Account,
  options: { readonly log: (event: string) => void; readonly places: readonly string[] | undefined },
): Promise<string> {
  const path = dataDirPath(dataDir)
  const closed = dataDir === null ? await closedFolder(path, account) : null
  if (closed !== null && (await readlink(path).catch(() => null)) === null) {
    const elsewhere = await linkElsewhere(path, account, options.places)
    if (elsewhere)
      options.log(`the data lie in ${elsewhere}, because the server's user may not enter ${closed}`)
  }
  // What a link led to may be gone, as with a container: it is made again there, and the link stays true.
  const target = await readlink(path).catch(() => null)
  const made = await mkdir(target === null ? path : resolve(dirname(path), target), { recursive: true })
  const root = await realpath(path)
  if (dataDir === null && target !== null) await claim(root, made !== undefined)
  return root
}

/** Answers with the new folder; null when another process was quicker, something is there, or there is no place for it. */
async function linkElsewhere(
  path: string,
  account: Account,
  places: readonly string[] | undefined,
): Promise<string | null> {
  const place = await openPlace(account, places)
  if (place === null) return null
  const root = await mkdtemp(join(place, 'data-'))
  await writeFile(join(root, belongsTo), `${path}\n`)
  // An empty one is left by whoever could not start here. Only an empty folder can be removed like this.
  await rmdir(path).catch(() => {})
  try {
    await symlink(root, path)
    return root
  } catch (error) {
    await rm(root, { recursive: true })
    if (errorCode(error) === 'EEXIST') return null
    throw error
  }
}

/** Notes whose data these are: when they are new, and when the folder they belonged to was moved here. */
async function claim(root: string, isNew: boolean): Promise<void> {
  const path = dataDirPath(null)
  const other = await otherOwner(root)
  if (other !== null) {
    throw new LeaseholdError(
      'EMBEDDED',
      `${path} leads to the database of ${dirname(other)}, of which this folder seems to be a copy. ` +
        `\`rm ${path}\` gives it a database of its own.`,
    )
  }
  const owner = await ownerOf(root)
  // A link of the user's own making has no such note, and needs none: it is shared with whom he likes.
  if (isNew || (owner !== null && owner !== path)) await writeFile(join(root, belongsTo), `${path}\n`)
}

/** The link of another folder that leads to these data too, and to which they belong; null when there is none. */
async function otherOwner(root: string): Promise<string | null> {
  const owner = await ownerOf(root)
  if (owner === null || owner === dataDirPath(null)) return null
  return (await realpath(owner).catch(() => null)) === root ? owner : null
}

async function ownerOf(root: string): Promise<string | null> {
  return readFile(join(root, belongsTo), 'utf8').then(
    (text) => text.trim(),
    () => null,
  )
}
