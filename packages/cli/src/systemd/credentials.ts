/**
 * The files of secrets which the units load: which are not there, which are open to others.
 *
 * A service whose credential is missing cannot even begin, so what starts services asks here first. The files are the
 * administrator's: this makes their folder, and never opens, writes or removes one of them.
 */
import type { ConfigProblem } from '@leasehold/queue'
import { chmodSync, mkdirSync, statSync } from 'node:fs'
import { basename, join } from 'node:path'
import { below, type Installation, settingsFolder } from './installation.ts'
import { credentialsOf, servicesOf } from './units.ts'

function folderOf(installation: Installation): string {
  return join(settingsFolder(installation), 'credentials')
}

/** Every file that a service of the installation loads. */
function filesOf(installation: Installation): string[] {
  const loaded = servicesOf(installation).flatMap((name) => [...credentialsOf(installation, name).values()])
  return [...new Set(loaded)].toSorted()
}

/** Makes the folder, and closes it to all but root. */
export function makeCredentialsFolder(installation: Installation): void {
  const folder = below(installation, folderOf(installation))
  mkdirSync(folder, { recursive: true })
  chmodSync(folder, 0o700)
}

/** What the services load and what is not there, or empty; each with how it is put there. */
export function missingCredentials(installation: Installation): ConfigProblem[] {
  return filesOf(installation).flatMap((file) => {
    const found = statSync(below(installation, file), { throwIfNoEntry: false })
    if (found !== undefined && found.size > 0) return []
    const what = found === undefined ? 'missing' : 'empty'
    const problem = `${what}: ${file}; put the value there: install -D -m 600 /dev/stdin ${file}`
    return [{ name: `service.secrets.${basename(file)}`, problem }]
  })
}

/** One line for each file that others than root could read. */
export function openCredentials(installation: Installation): string[] {
  return filesOf(installation).flatMap((file) => {
    const found = statSync(below(installation, file), { throwIfNoEntry: false })
    if (found === undefined || (found.mode & 0o077) === 0) return []
    return [`open to others: ${file}; close it: chmod 600 ${file}`]
  })
}
