/**
 * Which units of an installation run, and which files they still need.
 *
 * Invariant: a file is not taken from under a unit that runs; it is stopped first, or keeps its file.
 */
import { basename, relative } from 'node:path'
import { daemons } from '../processes/daemons.ts'
import type { Change } from './apply.ts'
import { settingsFolder, unitFolder } from './installation.ts'
import { systemctl } from './restart.ts'

/** Units of a prefix that systemd has started and not yet stopped; none where no systemd answers. */
export async function unitsAtWork(prefix: string): Promise<string[]> {
  const ofDaemons = daemons.map(({ name }) => `${name}.service`)
  const kinds = ['runner@*.service', ...ofDaemons, 'fire@*.service', 'fire@*.timer']
  const states = '--state=active,activating,reloading,deactivating'
  const listed = await systemctl('list-units', [
    '--plain',
    '--no-legend',
    '--full',
    states,
    ...kinds.map((kind) => `${prefix}-${kind}`),
  ]).catch(() => '')
  return listed.split('\n').flatMap((line) => line.trim().split(/\s+/)[0] || [])
}

/** Those that the installation no longer has: the target wanted them before, or they need a file that goes. */
export function goneUnits(
  atWork: readonly string[],
  { prefix, before, now }: { prefix: string; before: readonly string[]; now: readonly string[] },
  changes: readonly Change[],
): string[] {
  const removed = changes.filter(({ after }) => after === null)
  return atWork.filter(
    (unit) =>
      !now.includes(unit) &&
      !now.includes(unit.replace(/\.service$/, '.timer')) &&
      (before.includes(unit) || removed.some(({ path }) => needs(prefix, unit, path))),
  )
}

/** Whether a unit would not work, or not start again, without a file. */
export function needs(prefix: string, unit: string, path: string): boolean {
  if (path.startsWith(`${settingsFolder({ prefix })}/`)) {
    const [, worker] = /^worker-(.*)\.env$/.exec(basename(path)) ?? []
    return worker !== undefined && unit.startsWith(`${prefix}-runner@${worker}@`)
  }
  const [first = ''] = relative(unitFolder, path).split('/')
  // A timer starts the service of its name.
  const units = [unit, unit.replace(/\.timer$/, '.service')]
  const templates = units.map((name) => name.replace(/@.*(\.\w+)$/, '@$1'))
  return [...units, ...templates].includes(first.replace(/\.d$/, ''))
}
