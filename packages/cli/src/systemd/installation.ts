/**
 * One installation under systemd: whose manifest, under which names, with which programs, in which folders.
 *
 * Only facts and paths. What the files say is units.ts; what cannot work is refused in refuse.ts; writing is apply.ts.
 */
import type { Manifest } from '@leasehold/manifest'
import { realpathSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { usageError } from '../failure.ts'
import { nodeArguments } from '../processes/become.ts'
import { type Daemon, daemons } from '../processes/daemons.ts'
import { cliEntry, runnerEntry } from '../processes/entries.ts'

export interface Installation {
  readonly manifest: Manifest
  /** What all names begin with: `leasehold` gives leasehold.target, leasehold-runner@….service. */
  readonly prefix: string
  /** Where files are written below; `/` is this machine. The files themselves never name it. */
  readonly root: string
  /** Fire schedules by timers as well. */
  readonly timers: boolean
  /** The Node that was asked for; null: the one that runs the install. */
  readonly node: string | null
  /** `node` and its arguments for each program: `runner`, `fire`, and each daemon by its name. */
  readonly programs: ReadonlyMap<string, readonly string[]>
}

/** Describes an installation; `node` is the program that runs everything. Throws as `describePlace` does. */
export function describeInstallation(
  manifest: Manifest,
  options: { prefix: string; root: string; timers: boolean; node: string | undefined },
): Installation {
  const node = options.node ?? realpathSync(process.execPath)
  const program = (entry: URL): string[] => [node, ...nodeArguments(entry)]
  return {
    ...describePlace(options),
    manifest,
    timers: options.timers,
    node: options.node ?? null,
    programs: new Map([
      ['runner', program(runnerEntry)],
      ['fire', program(cliEntry)],
      ...daemons.map(({ name, entry }) => [name, program(entry)] as const),
    ]),
  }
}

/** Under which names and where. Throws a usage error for a prefix that no unit can begin with. */
export function describePlace({ prefix, root }: { prefix: string; root: string }): {
  prefix: string
  root: string
} {
  if (!/^[a-z][a-z0-9_-]{0,30}$/.test(prefix)) {
    throw usageError(
      `--prefix '${prefix}' cannot begin the name of a unit`,
      'use 1 to 31 lower case letters, digits, _ and -, starting with a letter',
    )
  }
  return { prefix, root: resolve(root) }
}

/** The folder of the shipped units. */
export const templates: string = fileURLToPath(new URL('../../../../systemd/', import.meta.url))

/** Where units lie, as the units themselves see it. */
export const unitFolder = '/etc/systemd/system'

/** Where the settings and the secrets of an installation lie. */
export function settingsFolder({ prefix }: Pick<Installation, 'prefix'>): string {
  return `/etc/${prefix}`
}

/** A path of the installed machine as this process reaches it. */
export function below({ root }: Pick<Installation, 'root'>, path: string): string {
  return join(root, path)
}

/** The unit of a slot. */
export function runnerUnit({ prefix }: Pick<Installation, 'prefix'>, slot: string): string {
  return `${prefix}-runner@${slot}.service`
}

/** The daemons that a manifest wants. */
export function daemonsOf(manifest: Manifest): Daemon[] {
  return daemons.filter(({ count }) => count(manifest) > 0)
}

/** All units that the target starts: who watches, who fires, who works. */
export function targetUnits(installation: Installation): string[] {
  const { manifest, prefix } = installation
  return [
    ...daemonsOf(manifest).map(({ name }) => `${prefix}-${name}.service`),
    ...manifest.workers.flatMap(({ slots }) => slots.map((slot) => runnerUnit(installation, slot))),
    ...(installation.timers
      ? manifest.schedules.filter(({ enabled }) => enabled).map(({ name }) => `${prefix}-fire@${name}.timer`)
      : []),
  ]
}
