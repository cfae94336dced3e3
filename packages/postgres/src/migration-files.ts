/**
 * Migrations on disk: reads a folder of plain, numbered SQL files.
 *
 * Invariant: the same files give the same names, order and checksums on every machine (line endings do not count).
 * Refuses gaps in good manners: wrong names, two files with one number, an empty file. Applying them is migrate.ts.
 *
 * A released file stays as it is, with one exception: a text that fails, or harms, in a place where it should not may be
 * mended when its effect stays the same wherever it succeeded. The mended file then begins with `-- formerly <sha256>`, one
 * line for each earlier text, so that databases which applied that one go on.
 */
import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { LeaseholdError } from '@leasehold/queue'

/** Migrations which belong together: one folder of files which together own one schema. */
export interface MigrationSet {
  /** Names the set in the bookkeeping, lower case; two sets never share a name. */
  readonly name: string
  /** Absolute path of the folder with the `NNNN_slug.sql` files. */
  readonly folder: string
  /** The schema whose objects the set owns and guards. */
  readonly schema: string
}

/** One file: its name without `.sql`, its text, and the SHA-256 of the text in hex. */
export interface MigrationFile {
  readonly name: string
  readonly sql: string
  readonly sha256: string
  /** It says `-- drain` at its head: programs that do not know it must have ended, and must not start again. */
  readonly drainFirst: boolean
  /** Checksums of earlier texts with the same effect where they succeeded (`-- formerly <sha256>` at its head). */
  readonly formerly: readonly string[]
}

/** Leasehold's own migrations, in /migrations of the repository. The path is the same from src/ and from dist/. */
export const leaseholdMigrations: MigrationSet = {
  name: 'leasehold',
  folder: fileURLToPath(new URL('../../../migrations/', import.meta.url)),
  schema: 'leasehold',
}

/** The dump that the check compares with, and the roles for those who could not create them: never applied from here. */
const generated: ReadonlySet<string> = new Set(['schema.sql', 'roles.sql'])
const fileName = /^(\d{4})_[a-z0-9_]+\.sql$/

/** Reads the files of a folder in order. An empty folder gives an empty list; throws LeaseholdError 'MIGRATIONS'. */
export async function readMigrations(folder: string): Promise<MigrationFile[]> {
  const entries = await readdir(folder).catch((cause: unknown) => {
    throw new LeaseholdError(
      'MIGRATIONS',
      `The migrations folder ${folder} cannot be read. Check the installation.`,
      {
        cause,
      },
    )
  })
  const names = entries.filter((entry) => entry.endsWith('.sql') && !generated.has(entry)).sort()
  const numbers = new Set<string>()
  const files: MigrationFile[] = []
  for (const entry of names) {
    const number = fileName.exec(entry)?.[1]
    if (number === undefined)
      throw refused(entry, 'is not named NNNN_slug.sql (lower case, digits, underscores)')
    if (numbers.has(number)) throw refused(entry, `repeats the number ${number}`)
    numbers.add(number)
    const sql = (await readFile(join(folder, entry), 'utf8')).replaceAll('\r\n', '\n')
    if (sql.trim() === '') throw refused(entry, 'is empty')
    const sha256 = createHash('sha256').update(sql).digest('hex')
    const head = headOf(sql)
    const formerly = [...head.matchAll(/^-- formerly (.*)$/gm)].map(([, digest = '']) => digest.trim())
    const wrong = formerly.find((digest) => !/^[0-9a-f]{64}$/.test(digest))
    if (wrong !== undefined) throw refused(entry, `says "formerly ${wrong}", which is no SHA-256 in hex`)
    const drainFirst = /^-- drain(:.*)?$/m.test(head)
    files.push({ name: entry.slice(0, -'.sql'.length), sql, sha256, drainFirst, formerly })
  }
  return files
}

/** The comments before the first statement: where `-- drain`, alone or with a reason after a colon, and `-- formerly` count. */
function headOf(sql: string): string {
  return /^(?:\s*(?:--.*)?\n)*/.exec(sql)?.[0] ?? ''
}

function refused(entry: string, why: string): LeaseholdError {
  return new LeaseholdError('MIGRATIONS', `Migration ${entry} ${why}. Mend, rename or remove the file.`)
}
