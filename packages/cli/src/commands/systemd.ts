/**
 * `leasehold systemd print|install|uninstall|restart`: services for what a manifest declares.
 *
 * Only asks, shows and reports. What is written: ../systemd/units.ts; what is refused: refuse.ts; how: apply.ts.
 */
import { createInterface } from 'node:readline/promises'
import { chmodSync, mkdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import type { Command } from 'commander'
import { type Context, show, withDatabase } from '../context.ts'
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
  below,
  describeInstallation,
  describePlace,
  type Installation,
  settingsFolder,
  targetUnits,
  runnerUnit,
} from '../systemd/installation.ts'
import { impossibleIn, refuseWhatSystemdRefuses } from '../systemd/refuse.ts'
import { type Restartable, restartOneByOne, systemctl } from '../systemd/restart.ts'
import { planFiles } from '../systemd/units.ts'

interface PlaceOptions {
  readonly prefix: string
  readonly root: string
}
interface PlanOptions extends PlaceOptions {
  readonly config: string
  readonly node?: string
  readonly timers?: boolean
}
interface ApplyOptions {
  readonly yes?: boolean
  readonly dryRun?: boolean
  readonly now?: boolean
}

function withPlace(command: Command): Command {
  return command
    .option('--prefix <name>', 'what the names of all units begin with', 'leasehold')
    .option('--root <dir>', 'write below this folder instead of into this machine', '/')
}

/** Adds the commands to the program. */
export function addSystemd(program: Command, context: Context): void {
  const systemd = program.command('systemd').description('services for what a manifest declares')
  const withPlan = (command: Command): Command =>
    withPlace(command)
      .option('--config <file>', 'the manifest', defaultManifest)
      .option('--node <path>', 'the Node that runs the services (default: this one)')
      .option('--timers', 'let systemd fire the schedules too: a timer for each')
  withPlan(systemd.command('print').description('show the files, write nothing'))
    .option('--json')
    .action(async (options: PlanOptions & { json?: boolean }) => {
      const files = planFiles(await plan(options))
      show(context, options.json, files, () => files.map((f) => `# ${f.path}\n${f.content}`).join('\n'))
    })
  withPlan(systemd.command('install').description('write the files after showing what changes'))
    .option('--yes', 'do not ask')
    .option('--dry-run', 'show what would change, write nothing')
    .option('--now', 'start what is new and stop what is gone')
    .action((options: PlanOptions & ApplyOptions) => install(context, options))
  withPlace(
    systemd.command('uninstall').description('stop the services and remove the files that install wrote'),
  )
    .option('--yes', 'do not ask')
    .option('--dry-run', 'show what would be removed, remove nothing')
    .action((options: PlaceOptions & ApplyOptions) => uninstall(context, options))
  systemd
    .command('restart')
    .description('restart the services one by one, each back at work before the next one stops')
    .option('--config <file>', 'the manifest', defaultManifest)
    .option('--prefix <name>', 'what the names of all units begin with', 'leasehold')
    .option('--worker <names...>', 'only the slots of these workers')
    .action((options: { config: string; prefix: string; worker?: string[] }) => restart(context, options))
}

async function plan(options: PlanOptions): Promise<Installation> {
  const { prefix, root, timers = false, node } = options
  return describeInstallation(await openManifest(options.config), { prefix, root, timers, node })
}

async function install(context: Context, options: PlanOptions & ApplyOptions): Promise<void> {
  const { terminal } = context
  const installation = await plan(options)
  await refuseProblems(installation.manifest, impossibleIn(installation), options.config)
  const files = planFiles(installation)
  refuseWhatSystemdRefuses(installation, files)
  const changes = findChanges(installation, files)
  const before = installedUnits(installation)
  if (!(await mayChange(context, changes, options))) return
  makeChanges(installation, changes)
  for (const line of missingCredentials(installation)) terminal.note(line)
  const units = targetUnits(installation)
  const gone = before.filter((unit) => !units.includes(unit))
  const target = `${installation.prefix}.target`
  if (installation.root !== '/') {
    await systemctl('enable', ['--quiet', `--root=${installation.root}`, target])
    terminal.out(`${changes.length} files changed below ${installation.root}.`)
    return
  }
  if (changes.length > 0) await systemctl('daemon-reload', [])
  await systemctl('enable', ['--quiet', target])
  if (options.now === true) {
    if (gone.length > 0) await systemctl('stop', gone)
    // Not waited for: a service whose database is away takes as long as that.
    await systemctl('start', ['--no-block', ...units, target])
  }
  terminal.out(`${changes.length} files changed; ${target} has ${units.length} units.`)
  const next = [
    ...(options.now === true ? [] : [`start them: systemctl start ${target}`]),
    ...(options.now === true || gone.length === 0
      ? []
      : [`stop what is gone: systemctl stop ${gone.join(' ')}`]),
    ...(changes.some(({ before: old }) => old !== null)
      ? ['let running ones have it: leasehold systemd restart']
      : []),
  ]
  for (const line of next) terminal.note(line)
}

async function uninstall(context: Context, options: PlaceOptions & ApplyOptions): Promise<void> {
  const place = describePlace(options)
  const changes = findOwn(place)
  if (!(await mayChange(context, changes, options))) return
  const target = `${place.prefix}.target`
  const live = place.root === '/'
  const units = installedUnits(place)
  if (live) await systemctl('stop', [target, ...units])
  await systemctl('disable', ['--quiet', ...(live ? [] : [`--root=${place.root}`]), target])
  makeChanges(place, changes)
  if (live) await systemctl('daemon-reload', [])
  context.terminal.out(`${changes.length} files removed.`)
  context.terminal.note(`left in place: ${settingsFolder(place)}/credentials, and the database`)
}

/** Shows the difference and asks. False: there is nothing to do, or it was not wanted. */
async function mayChange(
  context: Context,
  changes: readonly Change[],
  options: ApplyOptions,
): Promise<boolean> {
  const { terminal, stdin } = context
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

/** Makes the folder of secrets, and says which are not there yet or are open to others. */
function missingCredentials(installation: Installation): string[] {
  const folder = join(settingsFolder(installation), 'credentials')
  mkdirSync(below(installation, folder), { recursive: true })
  chmodSync(below(installation, folder), 0o700)
  return installation.manifest.service.secrets.flatMap((secret) => {
    const file = join(folder, secret)
    const found = statSync(below(installation, file), { throwIfNoEntry: false })
    if (found === undefined)
      return [`missing: ${file}; put the value there: install -m 600 /dev/stdin ${file}`]
    return (found.mode & 0o077) === 0 ? [] : [`open to others: ${file}; close it: chmod 600 ${file}`]
  })
}

async function restart(
  context: Context,
  options: { config: string; prefix: string; worker?: string[] },
): Promise<void> {
  const installation = await plan({ ...options, root: '/' })
  const { manifest, prefix } = installation
  const unknown = options.worker?.find((name) => !manifest.workers.some((worker) => worker.name === name))
  if (unknown !== undefined)
    throw usageError(
      `the manifest has no worker '${unknown}'`,
      `it has: ${manifest.workers.map((w) => w.name).join(', ')}`,
    )
  const slots = manifest.workers
    .filter(({ name }) => options.worker?.includes(name) ?? true)
    .flatMap((worker) => worker.slots.map((slot) => ({ unit: runnerUnit(installation, slot), slot })))
  const others: Restartable[] = [
    ...(manifest.monitors > 0 ? [{ unit: `${prefix}-heartbeat-monitor.service`, slot: null }] : []),
    ...(manifest.schedulers > 0 ? [{ unit: `${prefix}-scheduler.service`, slot: null }] : []),
  ]
  const services = [...slots, ...(options.worker === undefined ? others : [])]
  await withDatabase(withCredentials(context, installation), (session) =>
    restartOneByOne(session.pool, services, (service, tookMs) =>
      context.terminal.out(`${service.unit} is back after ${(tookMs / 1_000).toFixed(1)} s`),
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
