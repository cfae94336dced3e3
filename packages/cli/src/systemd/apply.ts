/**
 * From the files that are there to the files that are to be there: what differs, shown as a diff, and then done.
 *
 * Invariants: a file without our mark, or with the mark of another manifest, is never changed or removed; each file is
 * replaced as a whole or not at all; doing it twice changes nothing the second time. Secrets are never opened.
 */
import { createTwoFilesPatch } from 'diff'
import {
  globSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { CommandError } from '../failure.ts'
import { exitCodes } from '../exit-codes.ts'
import type { Terminal } from '../terminal/terminal.ts'
import { below, type Installation, settingsFolder, unitFolder } from './installation.ts'
import { mark, type PlannedFile } from './units.ts'

/** A file that will be written (`after`) or removed (null); `before` is null where there is none. */
export interface Change {
  /** As the installed machine sees it. */
  readonly path: string
  readonly before: string | null
  readonly after: string | null
}

type Place = Pick<Installation, 'prefix' | 'root'>

/** What has to change. Throws CommandError 'FOREIGN_FILE' when a file stands in the way that is not ours. */
export function findChanges(installation: Installation, files: readonly PlannedFile[]): Change[] {
  const ours = mark(installation)
  const changes: Change[] = []
  for (const { path, content } of files) {
    const before = readExisting(below(installation, path))
    if (before !== null && firstLine(before) !== ours) throw foreign(path, before)
    if (before !== content) changes.push({ path, before, after: content })
  }
  const wanted = new Set(files.map(({ path }) => path))
  const obsolete = findOwn(installation).filter(
    (file) => !wanted.has(file.path) && firstLine(file.before) === ours,
  )
  return [...changes, ...obsolete.map((file) => ({ ...file, after: null }))]
}

/** The files of this prefix that an install has written, whichever manifest it was for. */
export function findOwn(place: Place): (Change & { readonly before: string })[] {
  const folders = [unitFolder, settingsFolder(place)]
  const patterns = [`${place.prefix}{-,.}*`, `${place.prefix}{-,.}*.d/*.conf`, `*.env`]
  const found = folders.flatMap((folder, index) =>
    globSync(index === 0 ? patterns.slice(0, 2) : patterns.slice(2), { cwd: below(place, folder) }).map(
      (name) => join(folder, name),
    ),
  )
  return found.toSorted().flatMap((path) => {
    const before = readExisting(below(place, path))
    return before === null || !firstLine(before).startsWith(markStart(place))
      ? []
      : [{ path, before, after: null }]
  })
}

/** The diff of all changes, for people. */
export function renderChanges(changes: readonly Change[], paint: Terminal['paint']): string {
  return changes
    .map(({ path, before, after }) => {
      const names = [before === null ? '/dev/null' : path, after === null ? '/dev/null' : path] as const
      const patch = createTwoFilesPatch(...names, before ?? '', after ?? '', undefined, undefined, {
        context: 2,
      })
      return patch.replace(/^(Index: .*\n)?=+\n/, '').trimEnd()
    })
    .join('\n')
    .split('\n')
    .map((line) => {
      if (/^(---|\+\+\+) /.test(line)) return paint('bold', line)
      if (line.startsWith('+')) return paint('green', line)
      return line.startsWith('-') ? paint('red', line) : line
    })
    .join('\n')
}

/** Writes and removes. A folder of drop-ins that became empty goes too. */
export function makeChanges(place: Place, changes: readonly Change[]): void {
  for (const { path, after } of changes) {
    const file = below(place, path)
    if (after === null) {
      rmSync(file)
      if (dirname(file).endsWith('.d') && readdirSync(dirname(file)).length === 0) rmdirSync(dirname(file))
    } else {
      mkdirSync(dirname(file), { recursive: true })
      // Settings are no secrets, and still nobody's business: systemd reads them as root.
      writeFileSync(`${file}.new`, after, { mode: file.endsWith('.env') ? 0o640 : 0o644 })
      renameSync(`${file}.new`, file)
    }
  }
}

/** The units which a target that is installed starts. */
export function installedUnits(place: Place): string[] {
  const text =
    readExisting(below(place, join(unitFolder, `${place.prefix}.target.d`, '10-leasehold.conf'))) ?? ''
  return [...text.matchAll(/^Wants=(.+)$/gm)].map((match) => match[1]!)
}

/** Null: there is no file. A link or a folder is never ours and reads as empty. */
function readExisting(file: string): string | null {
  const found = lstatSync(file, { throwIfNoEntry: false })
  if (found === undefined) return null
  return found.isFile() ? readFileSync(file, 'utf8') : ''
}

function firstLine(text: string): string {
  return text.slice(0, text.indexOf('\n'))
}

function markStart({ prefix }: Place): string {
  return `# Written by leasehold systemd install (${prefix}) from `
}

function foreign(path: string, before: string): CommandError {
  const owner = /^# Written by leasehold systemd install \([^)]*\) from (.+)/.exec(before)?.[1]
  return owner === undefined
    ? new CommandError(
        'FOREIGN_FILE',
        `${path} exists and was not written by this command; nothing was changed`,
        'move it away, or install under another name: --prefix NAME',
        exitCodes.failed,
      )
    : new CommandError(
        'FOREIGN_FILE',
        `${path} belongs to the installation of ${owner}; nothing was changed`,
        'install beside it: --prefix NAME; or remove that one first: leasehold systemd uninstall',
        exitCodes.failed,
      )
}
