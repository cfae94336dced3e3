/**
 * The files of an installation: the shipped units as they are, and beside them drop-ins with what differs here.
 *
 * Invariants: the same manifest gives the same files; no file holds a secret, only names of files that do; the first line of each
 * says whose it is (`mark`). What an administrator adds in drop-ins of other names is never touched.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { ManifestWorker } from '@leasehold/manifest'
import { notifier } from '@leasehold/service'
import { daemons, secretsOfNobody } from '../processes/daemons.ts'
import { runnerStopTimeoutMs, serviceSettings } from '../process-managers/processes.ts'
import { toCalendar } from './calendar.ts'
import {
  daemonsOf,
  type Installation,
  runnerUnit,
  settingsFolder,
  targetUnits,
  templates,
  unitFolder,
} from './installation.ts'
import { environmentLine, execWord, listedPath, path } from './quoting.ts'
import { rememberingLine } from './remembered.ts'

/** A file that is to be there. */
export interface PlannedFile {
  /** Absolute, on the installed machine. */
  readonly path: string
  readonly content: string
}

/** The first line of every file of an installation; everything up to its end is compared. */
export function mark({ manifest, prefix }: Installation): string {
  return `# Written by leasehold systemd install (${prefix}) from ${manifest.file}`
}

/** All files of an installation, in the order of their paths. */
export function planFiles(installation: Installation): PlannedFile[] {
  const { manifest, prefix, timers } = installation
  const runners = manifest.workers.length > 0
  const dropIn = (unit: string, name: string, lines: readonly string[]): PlannedFile => ({
    path: join(unitFolder, `${unit}.d`, name),
    content: [mark(installation), ...advice, '', ...lines, ''].join('\n'),
  })
  const service = (name: string, unit: string): PlannedFile[] => [
    unitFile(installation, unit),
    dropIn(unit.replace('leasehold', prefix), '10-leasehold.conf', siteLines(installation, name)),
  ]
  const files = [
    unitFile(installation, 'leasehold.target'),
    dropIn(`${prefix}.target`, '10-leasehold.conf', [
      rememberingLine(installation),
      '',
      '[Unit]',
      ...targetUnits(installation).map((unit) => `Wants=${unit}`),
    ]),
    ...(runners ? service('runner', 'leasehold-runner@.service') : []),
    ...daemonsOf(manifest).flatMap(({ name }) => service(name, `leasehold-${name}.service`)),
    ...manifest.workers.flatMap((worker) => workerFiles(installation, worker, dropIn)),
    ...(timers ? [...service('fire', 'leasehold-fire@.service'), ...timerFiles(installation, dropIn)] : []),
    settingsFile(installation, prefix, serviceSettings(manifest)),
  ]
  return files.toSorted((a, b) => (a.path < b.path ? -1 : 1))
}

const advice = [
  '# Yours go into a file of another name beside this one; this one is written anew by the next install.',
]

const unitEnds = [...daemons.map(({ name }) => name), 'runner', 'fire', 'target']
/** The beginning of a unit's name, where one is named. */
const unitNames = new RegExp(`\\bleasehold(?=[-.](${unitEnds.join('|')})\\b)`, 'g')

/** A shipped unit under the names of this installation. */
function unitFile(installation: Installation, name: string): PlannedFile {
  const { prefix } = installation
  const shipped = readFileSync(join(templates, name), 'utf8')
  const named =
    prefix === 'leasehold'
      ? shipped
      : shipped
          .replaceAll(unitNames, prefix)
          .replaceAll('/etc/leasehold/leasehold.env', `/etc/${prefix}/${prefix}.env`)
          .replaceAll('/etc/leasehold/', `/etc/${prefix}/`)
          .replaceAll(/((State|Cache)Directory=|%C\/)leasehold\b/g, `$1${prefix}`)
  return {
    path: join(unitFolder, name.replace('leasehold', prefix)),
    content: `${mark(installation)}\n${named}`,
  }
}

/** Who is given a secret: the daemon whose own it is; what runs tasks gets those of its programs. */
function ownersOf(secret: string): string[] {
  if (secretsOfNobody.includes(secret)) return []
  const owners = daemons.filter(({ secrets }) => secrets.includes(secret)).map(({ name }) => name)
  return owners.length > 0 ? owners : ['runner']
}

/** The credentials of a service (`runner`, `fire`, or a daemon), by name: the file of each on the installed machine. */
export function credentialsOf(installation: Installation, name: string): ReadonlyMap<string, string> {
  const { secrets, ownLogins } = installation.manifest.service
  const folder = join(settingsFolder(installation), 'credentials')
  const own = secrets.filter((secret) => secret !== 'DATABASE_URL' && ownersOf(secret).includes(name))
  const login = ownLogins.includes(name) ? `DATABASE_URL.${name}` : 'DATABASE_URL'
  return new Map([
    ['DATABASE_URL', join(folder, login)],
    ...own.map((secret) => [secret, join(folder, secret)] as const),
  ])
}

/** The services that an installation has units for, by the names of {@link credentialsOf}. */
export function servicesOf({ manifest, timers }: Installation): string[] {
  return [
    ...(manifest.workers.length > 0 ? ['runner'] : []),
    ...daemonsOf(manifest).map(({ name }) => name),
    ...(timers ? ['fire'] : []),
  ]
}

/** What every process of a kind gets that the shipped unit cannot know. */
function siteLines(installation: Installation, name: string): string[] {
  const { manifest, prefix, programs } = installation
  const folder = settingsFolder(installation)
  const credentials = [...credentialsOf(installation, name)]
  const ownLogin = manifest.service.ownLogins.includes(name)
  const more: Readonly<Record<string, readonly string[]>> = {
    runner: ['--config', manifest.file, '--slot'],
    fire: ['schedules', 'fire'],
  }
  const instance = name === 'runner' || name === 'fire' ? ' %i' : ''
  const words = [...(programs.get(name) ?? []), ...(more[name] ?? [])].map(execWord).join(' ')
  // Without koffi messages come from a helper program, which is not the main process.
  const viaProgram = notifier({ NOTIFY_SOCKET: '/run/systemd/notify' }).via !== 'libsystemd'
  return [
    '[Service]',
    `User=${manifest.service.user}`,
    `WorkingDirectory=${path(manifest.directory)}`,
    'EnvironmentFile=',
    `EnvironmentFile=${path(join(folder, `${prefix}.env`))}`,
    // Empty: without the one of the shipped unit.
    ...(ownLogin ? ['LoadCredential='] : []),
    ...credentials
      .filter(([secret]) => ownLogin || secret !== 'DATABASE_URL')
      .map(([secret, file]) => `LoadCredential=${secret}:${path(file)}`),
    ...(viaProgram && name !== 'fire' ? ['NotifyAccess=all'] : []),
    ...(name === 'runner'
      ? [`WatchdogSec=${manifest.wedgeLimitMs}ms`, `TimeoutStopSec=${runnerStopTimeoutMs(manifest)}ms`]
      : []),
    'ExecStart=',
    `ExecStart=${words}${instance}`,
  ]
}

type DropIn = (unit: string, name: string, lines: readonly string[]) => PlannedFile

/** A worker's own settings and folders, where it has any: a drop-in for each of its slots. */
function workerFiles(installation: Installation, worker: ManifestWorker, dropIn: DropIn): PlannedFile[] {
  const { manifest } = installation
  const own = Object.keys(worker.env).length > 0
  const settings = join(settingsFolder(installation), `worker-${worker.name}.env`)
  const moved = worker.module !== null && worker.directory !== manifest.directory
  // Existing programs may write where they work, as far as the files let this user.
  const folders = manifest.commands
    .filter(({ stage }) => worker.stages.includes(stage))
    .map((c) => c.directory)
  const lines = [
    ...(own ? [`EnvironmentFile=${path(settings)}`] : []),
    ...(moved ? [`WorkingDirectory=${path(worker.directory)}`] : []),
    ...[...new Set(folders)].map((folder) => `ReadWritePaths=${listedPath(`-${folder}`)}`),
  ]
  if (lines.length === 0) return []
  return [
    ...(own ? [settingsFile(installation, `worker-${worker.name}`, worker.env)] : []),
    ...worker.slots.map((slot) =>
      dropIn(runnerUnit(installation, slot), '20-leasehold-worker.conf', ['[Service]', ...lines]),
    ),
  ]
}

function timerFiles(installation: Installation, dropIn: DropIn): PlannedFile[] {
  const { manifest, prefix } = installation
  return [
    unitFile(installation, 'leasehold-fire@.timer'),
    ...manifest.schedules
      .filter(({ enabled }) => enabled)
      .flatMap((schedule) => {
        const calendar = toCalendar(schedule)
        if ('problem' in calendar) return []
        const lines = ['', ...calendar.lines].map((line) => `OnCalendar=${line}`)
        const persistent = schedule.catchUp === 'skip' ? ['Persistent=no'] : []
        return [
          dropIn(`${prefix}-fire@${schedule.name}.timer`, '10-leasehold.conf', [
            '[Timer]',
            ...lines,
            ...persistent,
          ]),
        ]
      }),
  ]
}

function settingsFile(
  installation: Installation,
  name: string,
  settings: Readonly<Record<string, string>>,
): PlannedFile {
  const lines = Object.entries(settings).map(([setting, value]) => environmentLine(setting, value))
  return {
    path: join(settingsFolder(installation), `${name}.env`),
    content: [
      mark(installation),
      `# Not for secrets: those are files in ${settingsFolder(installation)}/credentials, named like the setting.`,
      ...lines.toSorted(),
      '',
    ].join('\n'),
  }
}
