/**
 * The files of an embedded server: one folder with the cluster (`data`), the server's logs (`log`) and the port.
 *
 * Invariant: `data` is a complete cluster with its password or it does not exist. It is made elsewhere and renamed into
 * place, so of several processes that start on an empty folder exactly one provides it and a crash leaves no half.
 * Running the server is server.ts's duty.
 */
import { randomBytes } from 'node:crypto'
import { appendFile, chmod, chown, mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { LeaseholdError } from '@leasehold/queue'
import { errorCode } from '../error-code.ts'
import { type Account, assertReachable } from './account.ts'
import type { Binaries } from './binaries.ts'
import { draftPath, putInPlace, removeAbandoned } from './draft.ts'
import { runProgram } from './program.ts'

/** The paths below a data directory. */
export interface ClusterPaths {
  readonly root: string
  readonly data: string
  readonly log: string
  readonly passwordFile: string
  readonly portFile: string
}

/** The one superuser of the embedded server, and the database that is made for Leasehold. */
export const embeddedUser = 'leasehold'
export const embeddedDatabase = 'leasehold'

export function clusterPaths(dataDir: string): ClusterPaths {
  const data = join(dataDir, 'data')
  return {
    root: dataDir,
    data,
    log: join(dataDir, 'log'),
    passwordFile: join(data, 'leasehold.password'),
    portFile: join(dataDir, 'port'),
  }
}

// Durable and modest: a crash loses nothing, a laptop can spare it. The file belongs to the user afterwards.
const settings = `
# Leasehold's defaults for its embedded server. Edit freely; the port and the address are given at start.
fsync = on
synchronous_commit = on
shared_buffers = 256MB
max_connections = 200
max_wal_size = 4GB
wal_compression = off            # pglz, the only one these builds have, costs more time than the volume it saves
autovacuum_naptime = 5s          # queue tables turn over quickly
jit = off                        # statements here are short; compiling them never pays
search_path = public             # or else the login's own tables would land in the schema of the same name
timezone = 'UTC'
log_timezone = 'UTC'
log_min_messages = warning
log_line_prefix = '%m [%p] %q%a '
logging_collector = on           # one file for each day of the week, so that logs stay bounded
log_filename = 'postgres-%a.log'
log_truncate_on_rotation = on
log_rotation_age = 1d
log_rotation_size = 0
`

/** Makes the cluster in its folder, unless it is there. Throws LeaseholdError 'EMBEDDED' when it cannot serve. */
export async function ensureCluster(
  paths: ClusterPaths,
  binaries: Binaries,
  account: Account,
  options: { ephemeral: boolean },
): Promise<void> {
  // The server's account has to pass through; what lies inside is closed to others by its own mode.
  if (account !== null) await chmod(paths.root, 0o711)
  await assertReachable(join(binaries.binDir, 'postgres'), account)
  await assertReachable(paths.data, account)
  await mkdir(paths.log, { recursive: true, mode: 0o700 })
  if (account !== null) await chown(paths.log, account.uid, account.gid)
  if (!(await exists(paths.data))) await createCluster(paths, binaries, account, options)
  await removeAbandoned(paths.root, 'init')
  const found = (await readFile(join(paths.data, 'PG_VERSION'), 'utf8')).trim()
  if (found !== String(binaries.major)) {
    throw new LeaseholdError(
      'EMBEDDED',
      `${paths.root} was made by PostgreSQL ${found}; this program brings ${binaries.major}. ` +
        'Choose another LEASEHOLD_DATA_DIR, or move the data with pg_upgrade or pg_dumpall.',
    )
  }
}

async function createCluster(
  paths: ClusterPaths,
  binaries: Binaries,
  account: Account,
  options: { ephemeral: boolean },
): Promise<void> {
  const draft = draftPath(paths.root, 'init')
  const passwordDraft = `${draft}.password`
  const password = randomBytes(24).toString('base64url')
  await mkdir(draft, { mode: 0o700 })
  await writeFile(passwordDraft, password, { mode: 0o600 })
  if (account !== null) {
    await chown(draft, account.uid, account.gid)
    await chown(passwordDraft, account.uid, account.gid)
  }
  // From 17 on, the built-in provider knows the case of all letters and needs no locale of the machine.
  const locale =
    binaries.major >= 17
      ? ['--locale-provider=builtin', '--builtin-locale=C.UTF-8', '--locale=C']
      : ['--locale=C']
  const args = [
    '-D',
    draft,
    '-U',
    embeddedUser,
    '--auth=scram-sha-256',
    `--pwfile=${passwordDraft}`,
    '--encoding=UTF8',
  ]
  try {
    const flags = [...locale, '--data-checksums', ...(options.ephemeral ? ['--no-sync'] : [])]
    await runProgram(binaries, 'initdb', [...args, ...flags], account)
    await appendFile(join(draft, 'postgresql.conf'), settings)
    await rename(passwordDraft, join(draft, 'leasehold.password'))
    await putInPlace(draft, paths.data)
  } finally {
    await rm(draft, { recursive: true, force: true })
    await rm(passwordDraft, { force: true })
  }
}

/** The superuser's password, or null when there is no cluster. */
export async function readPassword(paths: ClusterPaths): Promise<string | null> {
  try {
    return (await readFile(paths.passwordFile, 'utf8')).trim()
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return null
    throw new LeaseholdError(
      'EMBEDDED',
      `The password in ${paths.passwordFile} cannot be read by this user. Run as the user who started the server.`,
      { cause: error },
    )
  }
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  )
}
