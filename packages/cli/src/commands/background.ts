/**
 * `leasehold background start|status|stop`: everything in the background of a developer's machine; also scripts/start-all,
 * status and stop-all.
 *
 * Only asks and shows; the process in the background is ../background/keeper.ts.
 */
import { existsSync } from 'node:fs'
import { hostname } from 'node:os'
import { join, resolve } from 'node:path'
import type { Manifest } from '@leasehold/manifest'
import { ownDataDir } from '@leasehold/postgres'
import { listWorkers, type WorkerHealth } from '@leasehold/queue'
import type { Command } from 'commander'
import { ask, hold, type KeeperState } from '../background/control.ts'
import { keep } from '../background/keeper.ts'
import { refuseDead, spawnKeeper, untilBegun } from '../background/spawn.ts'
import { type Context, show, withDatabase } from '../context.ts'
import { exitCodes } from '../exit-codes.ts'
import { usageError } from '../failure.ts'
import { openManifest } from '../manifest/read.ts'
import { processKinds } from '../process-managers/processes.ts'
import { daemons } from '../processes/daemons.ts'
import type { MemberState } from '../processes/fleet.ts'
import { table } from '../terminal/table.ts'
import { duration, relative } from '../terminal/time.ts'

interface FolderOptions {
  readonly dir: string
}
interface StartOptions extends FolderOptions {
  readonly config?: string
}

/** Adds the commands to the program. */
export function addBackground(program: Command, context: Context): void {
  const background = program
    .command('background')
    .description('everything in the background, for development: logs in logs/, never twice')
  const command = (name: string, what: string): Command =>
    background
      .command(name)
      .description(what)
      .option('--dir <folder>', 'where logs/ and the embedded database lie', '.')
  command('start', 'start everything that a manifest declares, or the lead pipeline')
    .option(
      '--config <file>',
      'the manifest (default: leasehold.config.ts of the folder, where there is one)',
    )
    .action((options: StartOptions) => start(context, options))
  command('status', 'the processes, and what the database says of them')
    .option('--json', 'print one JSON document')
    .action((options: FolderOptions & { json?: boolean }) => status(context, options))
  command('stop', 'let everything drain and end, and wait for it')
    .option('--now', 'give back what runs instead of finishing it')
    .action((options: FolderOptions & { now?: boolean }) => stop(context, options))
  background
    .command('keep', { hidden: true })
    .requiredOption('--dir <folder>')
    .option('--config <file>')
    .action(async (options: StartOptions) => {
      // Started in its folder (spawn.ts), whose database is its own then.
      context.exitCode = await keep(context, resolve(options.dir), options.config ?? null)
    })
}

async function start(context: Context, options: StartOptions): Promise<void> {
  const folder = resolve(options.dir)
  const found = join(folder, 'leasehold.config.ts')
  const config = options.config === undefined ? (existsSync(found) ? found : null) : resolve(options.config)
  if (config !== null) refuseEmpty(await openManifest(config))
  const running = await ask(folder, 'list')
  if (running !== null) return alreadyRunning(context, running)
  const keeper = spawnKeeper(context.environment, folder, config)
  const state = await untilBegun(folder, keeper)
  if (state.pid !== keeper.pid) return alreadyRunning(context, state)
  refuseDead(folder, state)
  context.terminal.out(`${state.members.length} processes run in the background, with ${state.database}.`)
  context.terminal.note(`logs: ${join(folder, 'logs')}; look: scripts/status; end: scripts/stop-all`)
}

function refuseEmpty(manifest: Manifest): void {
  if (processKinds(manifest).length > 0) return
  throw usageError(
    `${manifest.file} declares no process`,
    'give it a stage or a worker with instances, a monitor, a scheduler or a control service',
  )
}

function alreadyRunning(context: Context, state: KeeperState): void {
  context.terminal.note(`It runs already: ${state.members.length} processes, kept by pid ${state.pid}.`)
  context.exitCode = exitCodes.nothingDone
}

async function stop(context: Context, options: FolderOptions & { now?: boolean }): Promise<void> {
  const folder = resolve(options.dir)
  const line = await hold(folder)
  const state = await ask(folder, options.now === true ? 'stop-now' : 'stop')
  if (state === null || line === null) {
    line?.destroy()
    context.terminal.note('Nothing runs in the background.')
    context.exitCode = exitCodes.nothingDone
    return
  }
  context.terminal.note(
    `draining ${state.members.filter(({ pid }) => pid !== null).length} processes; --now gives back what runs`,
  )
  await new Promise((closed) => line.once('close', closed))
  context.terminal.out('Everything has ended.')
}

/** A process, a worker, or both: joined by process id on this machine. */
interface Row {
  readonly process: MemberState | null
  readonly worker: WorkerHealth | null
  readonly remark: string | null
}

async function status(context: Context, options: FolderOptions & { json?: boolean }): Promise<void> {
  const folder = resolve(options.dir)
  const state = await ask(folder, 'list')
  const read = await withDatabase(inFolder(context, folder), ({ pool }) => listWorkers(pool)).catch(
    (error: unknown) => {
      if (state !== null) context.terminal.note(`the database cannot be asked: ${(error as Error).message}`)
      return null
    },
  )
  const rows = joined(state?.members ?? [], read)
  show(context, options.json, { keeper: state, rows }, () => statusText(context, state, rows))
  if (state === null) context.exitCode = exitCodes.nothingDone
}

function joined(members: readonly MemberState[], workers: readonly WorkerHealth[] | null): Row[] {
  const here = hostname()
  const of = (member: MemberState): WorkerHealth | null =>
    workers?.find(({ pid, host }) => pid === member.pid && host === here) ?? null
  const processes = members.map((process) => {
    const worker = process.pid === null ? null : of(process)
    return { process, worker, remark: processRemark(process, worker, workers !== null) }
  })
  const known = new Set(processes.map(({ worker }) => worker))
  const others = (workers ?? [])
    .filter((worker) => !known.has(worker))
    .map((worker) => ({
      process: null,
      worker,
      remark: worker.host === here ? 'worker without process here' : `worker on ${worker.host}`,
    }))
  return [...processes, ...others]
}

function processRemark(process: MemberState, worker: WorkerHealth | null, asked: boolean): string | null {
  if (process.pid === null) return `down: ${process.lastEnd ?? 'not started yet'}`
  const isDaemon = daemons.some(({ name }) => name === process.name.split('@', 1)[0])
  return worker === null && !isDaemon && asked ? 'process without worker' : null
}

function statusText(context: Context, state: KeeperState | null, rows: readonly Row[]): string {
  const head =
    state === null
      ? 'Nothing runs in the background; start it: scripts/start-all'
      : `${state.phase}, kept by pid ${state.pid}, with ${state.database ?? 'no database yet'}`
  if (rows.length === 0) return head
  const titles = ['PROCESS', 'PID', 'UP', 'RESTARTS', 'SLOT', 'WORKER', 'RUNNING', 'LAST BEAT', '']
  const lines = rows.map(({ process, worker, remark }) => [
    process?.name ?? null,
    process?.pid == null ? null : String(process.pid),
    process?.startedAt == null ? null : duration(Date.now() - new Date(process.startedAt).getTime()),
    process === null ? null : Math.max(0, process.restarts),
    worker?.slot ?? null,
    worker?.status ?? null,
    worker === null ? null : `${worker.running}/${worker.concurrency}`,
    worker === null ? null : relative(worker.silentMs),
    remark === null ? { shown: '' } : { shown: context.terminal.paint('yellow', remark) },
  ])
  return `${head}\n${table(context.terminal, titles, lines)}`
}

/** The embedded database of a folder is that folder's, wherever the command is typed. */
function inFolder(context: Context, folder: string): Context {
  const dataDir = resolve(folder, context.environment['LEASEHOLD_DATA_DIR'] || ownDataDir)
  return { ...context, environment: { ...context.environment, LEASEHOLD_DATA_DIR: dataDir } }
}
