/**
 * The account which the embedded server runs under.
 *
 * PostgreSQL refuses to run as root, so a process of root hands the server to an unprivileged account: the owner of an
 * existing data directory, else `postgres`, else `nobody`. Everybody else runs it themselves.
 * Refuses paths which that account cannot reach, naming the folder that is closed. Creates no accounts.
 */
import { execFile } from 'node:child_process'
import { stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { promisify } from 'node:util'
import { LeaseholdError } from '@leasehold/queue'

/** Numeric ids to give to `spawn`; null when this process's own account serves. */
export type Account = { readonly uid: number; readonly gid: number } | null

/** Chooses the account for a cluster in `cluster`, which may not exist yet. */
export async function chooseAccount(cluster: string): Promise<Account> {
  if (process.getuid?.() !== 0) return null
  const existing = await stat(cluster).catch(() => null)
  if (existing !== null && existing.uid !== 0) return { uid: existing.uid, gid: existing.gid }
  for (const name of ['postgres', 'nobody']) {
    const account = await lookUp(name)
    if (account !== null) return account
  }
  throw new LeaseholdError(
    'EMBEDDED',
    'PostgreSQL does not run as root, and there is no account `postgres` or `nobody` to run it under. ' +
      'Create one (`useradd --system postgres`), start as another user, or set DATABASE_URL.',
  )
}

async function lookUp(name: string): Promise<Account> {
  const run = promisify(execFile)
  try {
    const [uid, gid] = await Promise.all([run('id', ['-u', name]), run('id', ['-g', name])])
    return { uid: Number(uid.stdout), gid: Number(gid.stdout) }
  } catch {
    return null
  }
}

/** The first folder above `path` which the account may not enter; null when it may enter all, as this process's own does. */
export async function closedFolder(path: string, account: Account): Promise<string | null> {
  if (account === null) return null
  const folders: string[] = []
  for (let folder = dirname(path); ; folder = dirname(folder)) {
    folders.unshift(folder)
    if (folder === dirname(folder)) break
  }
  for (const folder of folders) {
    const { mode, uid, gid } = await stat(folder)
    const bit = uid === account.uid ? 0o100 : gid === account.gid ? 0o010 : 0o001
    if ((mode & bit) === 0) return folder
  }
  return null
}

/** Passes when the account may enter every folder above `path`; throws LeaseholdError 'EMBEDDED' which names the first closed one. */
export async function assertReachable(path: string, account: Account): Promise<void> {
  const closed = await closedFolder(path, account)
  if (account === null || closed === null) return
  throw new LeaseholdError(
    'EMBEDDED',
    `Started as root, PostgreSQL has to run as uid ${account.uid}, which may not enter ${closed} (needed for ${path}). ` +
      `Allow it with \`chmod o+x ${closed}\`, move the repository to a folder such as /srv, ` +
      'start as an ordinary user, or set DATABASE_URL.',
  )
}
