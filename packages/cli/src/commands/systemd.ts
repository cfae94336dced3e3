/**
 * `leasehold systemd print|install|uninstall|restart`: services for what a manifest declares.
 *
 * Only asks, shows and reports. What is written: ../systemd/units.ts; what is refused: refuse.ts; how: apply.ts.
 */
import { createInterface } from 'node:readline/promises'
import { join, resolve } from 'node:path'
import type { Manifest } from '@leasehold/manifest'
import type { Command } from 'commander'
import { type Context, show, withDatabase } from '../context.ts'
import { exitCodes } from '../exit-codes.ts'
import { usageError } from '../failure.ts'
import { defaultManifest, openManifest, refuseProblems } from '../manifest/read.ts'
import {
  type Change,
  findChanges,
  findOwn,
  installedUnits,
  makeChanges,
  renderChanges,
} from '../systemd/apply.ts'
import {
  daemonsOf,
  describeInstallation,
  describePlace,
  type Installation,
  settingsFolder,
  targetUnits,
  runnerUnit,
} from '../systemd/installation.ts'
import { daemonStopTimeoutMs, runnerStopTimeoutMs } from '../process-managers/processes.ts'
import { makeCredentialsFolder, missingCredentials, openCredentials } from '../systemd/credentials.ts'
import { examineNode } from '../systemd/node-program.ts'
import { impossibleIn, refuseWhatSystemdRefuses } from '../systemd/refuse.ts'
import { defaultPrefix, type Flags, listInstalled, recall } from '../systemd/remembered.ts'
import { type Restartable, restartOneByOne, systemctl } from '../systemd/restart.ts'
import { timerLimits } from '../systemd/timer-limits.ts'
import { goneUnits, needs, unitsAtWork } from '../systemd/units-at-work.ts'
import { planFiles } from '../systemd/units.ts'

interface PlaceOptions extends Pick<Flags, 'prefix'> {
  readonly root: string
}
interface PlanOptions extends PlaceOptions, Flags {
  readonly config: string
}
interface ApplyOptions {
  readonly yes?: boolean
  readonly dryRun?: boolean
  readonly now?: boolean
  readonly json?: boolean
}

/** TimeoutStartSec= of the units, and something for a machine that is busy. */
const startTimeoutMs = 70_000

const prefixHelp = `what the names of all units begin with (default: as installed before, else ${defaultPrefix})`

function withPlace(command: Command): Command {
  return command
    .option('--prefix <name>', prefixHelp)
    .option('--root <dir>', 'write below this folder instead of into this machine', '/')
}

/** Adds the commands to the program. */
export function addSystemd(program: Command, context: Context): void {
  const systemd = program.command('systemd').description('services for what a manifest declares')
  const withPlan = (command: Command): Command =>
    withPlace(command)
      .option('--config <file>', 'the manifest', defaultManifest)
      .option(
        '--node <path>',
        'the Node that runs the services (default: as installed before, else this one)',
      )
      .option('--timers', 'let systemd fire the schedules too: a timer for each')
      .option('--no-timers', 'take the timers away again')
  withPlan(systemd.command('print').description('show the files, write nothing'))
    .option('--json', 'print one JSON document')
    .action(async (options: PlanOptions & { json?: boolean }) => {
      const installation = await plan(options)
      warnOfTimers(context, installation)
      const files = planFiles(installation)
      show(context, options.json, files, () => files.map((f) => `# ${f.path}\n${f.content}`).join('\n'))
    })
  withPlan(systemd.command('install').description('write the files after showing what changes'))
    .option('--yes', 'do not ask')
    .option('--dry-run', 'show what would change, write nothing')
    .option('--json', 'print one JSON document; with --dry-run only')
    .option('--now', 'start what is new and stop what is gone')
    .action((options: PlanOptions & ApplyOptions) => install(context, options))
  withPlace(
    systemd.command('uninstall').description('stop the services and remove the files that install wrote'),
  )
    .option('--yes', 'do not ask')
    .option('--dry-run', 'show what would be removed, remove nothing')
    .option('--json', 'print one JSON document; with --dry-run only')
    .action((options: PlaceOptions & ApplyOptions) => uninstall(context, options))
  systemd
    .command('restart')
    .description('restart the services one by one, each back at work before the next one stops')
    .option('--config <file>', 'the manifest', defaultManifest)
    .option('--prefix <name>', prefixHelp)
    .option('--worker <names...>', 'only the slots of these workers')
    .action((options: { config: string; prefix?: string; worker?: string[] }) => restart(context, options))
}

/** The installation that the command line alone describes. */
async function plan(options: PlanOptions): Promise<Installation> {
  return describe(await openManifest(options.config), options.root, options)
}

/** The installation as the manifest's last install was asked for, but for what is given now. */
async function planAsBefore(context: Context, options: PlanOptions): Promise<Installation> {
  const manifest = await openManifest(options.config)
  const { flags, remembered } = recall(resolve(options.root), manifest.file, options)
  if (remembered.length > 0) context.terminal.note(`as installed before: ${remembered.join(' ')}`)
  return describe(manifest, options.root, flags)
}

function describe(manifest: Manifest, root: string, flags: Flags): Installation {
  const { prefix = defaultPrefix, timers = false, node } = flags
  return describeInstallation(manifest, { root, prefix, timers, node })
}

async function install(context: Context, options: PlanOptions & ApplyOptions): Promise<void> {
  const { terminal } = context
  const installation = await planAsBefore(context, options)
  const { prefix, root } = installation
  const mend = 'mend what is named and run it again; nothing was written'
  await refuseProblems(installation.manifest, impossibleIn(installation), options.config, mend)
  warnOfTimers(context, installation)
  const files = planFiles(installation)
  refuseWhatSystemdRefuses(installation, files)
  // A service without its secrets cannot begin. Whoever only writes may put them there afterwards.
  if (options.now === true && options.dryRun !== true && root === '/')
    await refuseProblems(installation.manifest, missingCredentials(installation), options.config, mend)
  const found = findChanges(installation, files)
  const units = targetUnits(installation)
  const before = installedUnits(installation)
  const gone = root === '/' ? goneUnits(await unitsAtWork(prefix), { prefix, before, now: units }, found) : []
  // What runs keeps its files until it has been stopped.
  const needed = ({ path, after }: Change): boolean =>
    after === null && gone.some((unit) => needs(prefix, unit, path))
  const changes = options.now === true ? found : found.filter((change) => !needed(change))
  if (!(await mayChange(context, changes, options))) return
  if (options.now === true && gone.length > 0) await systemctl('stop', gone)
  makeChanges(installation, changes)
  makeCredentialsFolder(installation)
  for (const { problem } of missingCredentials(installation)) terminal.note(problem)
  for (const line of openCredentials(installation)) terminal.note(line)
  const target = `${prefix}.target`
  if (root !== '/') {
    await systemctl('enable', ['--quiet', `--root=${root}`, target])
    terminal.out(`${changes.length} files changed below ${root}.`)
    return
  }
  // Also when nothing differs: an earlier install may have ended between writing and this.
  await systemctl('daemon-reload', [])
  await systemctl('enable', ['--quiet', target])
  // Not waited for: a service whose database is away takes as long as that.
  if (options.now === true) await systemctl('start', ['--no-block', ...units, target])
  terminal.out(`${changes.length} files changed; ${target} has ${units.length} units.`)
  for (const line of afterwards(installation, changes, options.now === true ? null : gone))
    terminal.note(line)
}

/** Says of each schedule what its timer will not do. */
function warnOfTimers({ terminal }: Context, { manifest, timers }: Installation): void {
  const enabled = manifest.schedules.filter((schedule) => timers && schedule.enabled)
  for (const limit of enabled.flatMap((schedule) => timerLimits(schedule, new Date())))
    terminal.note(`${terminal.paint('yellow', 'warning:')} ${limit}`)
}

/** What is left to do; `gone` are the units that run on, null when those were stopped and the others started. */
function afterwards(installation: Installation, changes: readonly Change[], gone: string[] | null): string[] {
  const node = installation.programs.get('runner')?.[0] ?? ''
  const found = examineNode(node)
  return [
    ...('version' in found ? [`the services run with Node ${found.version}, ${node}`] : []),
    ...(gone === null ? [] : [`start them: systemctl start ${installation.prefix}.target`]),
    ...(gone === null || gone.length === 0
      ? []
      : [
          `no longer declared, and still running with their files: ${gone.join(' ')}; ` +
            'stop and remove them: leasehold systemd install --now',
        ]),
    ...(changes.some(({ before: old }) => old !== null)
      ? ['let running ones have it: leasehold systemd restart']
      : []),
  ]
}

async function uninstall(context: Context, options: PlaceOptions & ApplyOptions): Promise<void> {
  const place = describePlace({ root: options.root, prefix: options.prefix ?? defaultPrefix })
  const changes = findOwn(place)
  if (changes.length === 0) return nothingInstalled(context, place)
  if (!(await mayChange(context, changes, options))) return
  const target = `${place.prefix}.target`
  const live = place.root === '/'
  if (live) await systemctl('stop', [target, ...(await unitsAtWork(place.prefix))])
  await systemctl('disable', ['--quiet', ...(live ? [] : [`--root=${place.root}`]), target])
  makeChanges(place, changes)
  if (live) await systemctl('daemon-reload', [])
  context.terminal.out(`${changes.length} files removed.`)
  context.terminal.note(`left in place: ${settingsFolder(place)}/credentials, and the database`)
}

function nothingInstalled(context: Context, place: { prefix: string; root: string }): void {
  context.terminal.note(`Nothing is installed under the name ${place.prefix}.`)
  for (const { prefix, file } of listInstalled(place.root))
    context.terminal.note(`there is: --prefix ${prefix}, from ${file}`)
  context.exitCode = exitCodes.nothingDone
}

/** Shows the difference and asks. False: there is nothing to do, or it was not wanted. */
async function mayChange(
  context: Context,
  changes: readonly Change[],
  options: ApplyOptions,
): Promise<boolean> {
  const { terminal, stdin } = context
  if (options.json === true) {
    if (options.dryRun !== true) throw usageError('--json only shows', 'add --dry-run, or leave --json out')
    show(context, true, changes, () => '')
    return false
  }
  if (changes.length === 0) {
    terminal.out('Nothing differs.')
    // What follows (enabling, --now) may still be wanted.
    return options.dryRun !== true
  }
  terminal.out(renderChanges(changes, terminal.paint))
  if (options.dryRun === true) return false
  if (options.yes === true) return true
  if (!terminal.isTty) throw usageError('there is nobody to ask whether to go on', 'add --yes, or --dry-run')
  const lines = createInterface({ input: stdin, output: process.stderr })
  const answer = await lines.question(`Change these ${changes.length} files? [y/N] `)
  lines.close()
  if (/^y(es)?$/i.test(answer.trim())) return true
  terminal.note('nothing was changed')
  return false
}

async function restart(
  context: Context,
  options: { config: string; prefix?: string; worker?: string[] },
): Promise<void> {
  const installation = await planAsBefore(context, { ...options, root: '/' })
  const { manifest, prefix } = installation
  const unknown = options.worker?.find((name) => !manifest.workers.some((worker) => worker.name === name))
  if (unknown !== undefined)
    throw usageError(
      `the manifest has no worker '${unknown}'`,
      `it has: ${manifest.workers.map((w) => w.name).join(', ')}`,
    )
  const slots = manifest.workers
    .filter(({ name }) => options.worker?.includes(name) ?? true)
    .flatMap((worker) =>
      worker.slots.map((slot) => ({
        unit: runnerUnit(installation, slot),
        slot,
        withinMs: runnerStopTimeoutMs(manifest) + startTimeoutMs,
      })),
    )
  const others = daemonsOf(manifest).map(({ name }): Restartable => ({
    unit: `${prefix}-${name}.service`,
    slot: null,
    withinMs: daemonStopTimeoutMs + startTimeoutMs,
  }))
  // Who watches comes first: it knows the new program's ways before the workers do, and is the least that can go wrong.
  const services = [...(options.worker === undefined ? others : []), ...slots]
  await withDatabase(withCredentials(context, installation), (session) =>
    restartOneByOne(session.pool, services, (service, tookMs) =>
      context.terminal.out(
        tookMs === null
          ? `${service.unit} is stopped, and is left so; start it: systemctl start ${service.unit}`
          : `${service.unit} is back after ${(tookMs / 1_000).toFixed(1)} s`,
      ),
    ),
  )
}

/** Whoever may restart services may read their credentials: the same database, without typing its address. */
function withCredentials(context: Context, installation: Installation): Context {
  const { environment } = context
  if (environment['DATABASE_URL'] !== undefined || environment['CREDENTIALS_DIRECTORY'] !== undefined)
    return context
  const folder = join(settingsFolder(installation), 'credentials')
  return { ...context, environment: { ...environment, CREDENTIALS_DIRECTORY: folder } }
}
