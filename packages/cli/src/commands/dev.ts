/**
 * `leasehold dev`: everything in one terminal: database, schema, monitor, scheduler, and a runner for each stage.
 *
 * Invariant: what it started ends with it, in order: runners drain, then monitor and scheduler, then the embedded server. A
 * database named by DATABASE_URL, or an embedded one that ran already, is left running.
 */
import { hostname } from 'node:os'
import { resolveDatabase } from '@leasehold/postgres'
import { onShutdown, readConfig } from '@leasehold/service'
import type { Command } from 'commander'
import type { Context } from '../context.ts'
import { exitCodes } from '../exit-codes.ts'
import { withoutPasswords } from '../failure.ts'
import { leadStageNames, migrateAll } from '../pipeline.ts'
import { monitorEntry, runnerEntry, schedulerEntry } from '../processes/entries.ts'
import { Fleet, type Member } from '../processes/fleet.ts'
import { runnerArguments } from './daemons.ts'

interface DevOptions {
  readonly module?: string
  readonly stage?: string[]
  readonly restart: boolean
}

/** Adds the command to the program. */
export function addDev(program: Command, context: Context): void {
  program
    .command('dev')
    .description('database, monitor, scheduler and runners in one terminal; Ctrl-C drains')
    .option('--module <file|package>', 'your stages instead of the lead pipeline’s, served by one runner')
    .option('--stage <stages...>', 'only these stages, a runner for each')
    .option('--no-restart', 'leave a process that died down, to watch what the others do about it')
    .action((options: DevOptions) => dev(context, options))
}

async function dev(context: Context, options: DevOptions): Promise<void> {
  const { terminal, environment } = context
  const config = readConfig(environment, 'monitor')
  const database = await resolveDatabase({
    databaseUrl: config.database.url ?? undefined,
    dataDir: config.database.dataDir,
    log: (event) => terminal.out(event),
  })
  const fleets: Fleet[] = []
  let signals = 0
  const stop = (): void => {
    signals += 1
    if (signals === 1) terminal.note('draining; press Ctrl-C again to stop at once')
    // The monitor ends last: it watches while the runners drain.
    for (const fleet of signals === 1 ? fleets.slice(0, 1) : fleets) fleet.stop()
  }
  const unwatch = onShutdown({ drain: stop, stopNow: stop })
  process.on('SIGHUP', stop)
  try {
    const applied = (await migrateAll(database.url)).flatMap((set) => set.applied)
    terminal.out(`database ${withoutPasswords(database.url)}${applied.length > 0 ? ', migrated' : ''}`)
    if (signals > 0) return
    const members = runnerMembers(options)
    const fleetOptions = {
      terminal,
      environment: { ...environment, DATABASE_URL: database.url },
      restart: options.restart,
      nameWidth: Math.max(...[...members, ...watchers].map(({ name }) => name.length)),
    }
    const runners = new Fleet(members, fleetOptions)
    const monitor = new Fleet(watchers, fleetOptions)
    fleets.push(runners, monitor)
    const monitorEnded = monitor.ended.then((misconfigured) => {
      if (misconfigured) runners.stop()
      return misconfigured
    })
    const misconfigured = await runners.ended
    monitor.stop()
    if ((await monitorEnded) || misconfigured) context.exitCode = exitCodes.usage
  } finally {
    process.off('SIGHUP', stop)
    unwatch()
    await database.stop()
  }
}

/** What runs beside the runners, until they have drained. */
export const watchers: readonly Member[] = [
  { name: 'monitor', entry: monitorEntry, args: [] },
  { name: 'scheduler', entry: schedulerEntry, args: [] },
]

/** A runner for each stage, or one for all stages of a module, each with a slot of its own. */
export function runnerMembers({ module, stage }: DevOptions): (Member & { readonly slot: string })[] {
  const host = hostname().slice(0, 40)
  const member = (name: string, stages: string[]): Member & { readonly slot: string } => {
    const slot = `${name}@${host}`
    const args = runnerArguments({ stage: stages, slot, ...(module !== undefined && { module }) })
    return { name, slot, entry: runnerEntry, args }
  }
  if (stage === undefined && module !== undefined) return [member('runner', [])]
  return (stage ?? leadStageNames).map((name) => member(name, [name]))
}
