/**
 * The keeper: one process in the background that starts everything, starts again what dies, and drains it all at the end.
 *
 * Invariants: one for each folder (control.ts); what it started ends with it, also when it is killed (end-with-parent.ts);
 * every process has a log of its own in logs/ that does not grow beyond a limit. Production has systemd for all this.
 */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { resolveDatabase } from '@leasehold/postgres'
import { type Manifest, readManifest } from '@leasehold/manifest'
import { onShutdown, readConfig } from '@leasehold/service'
import { runnerMembers } from '../commands/dev.ts'
import type { Context } from '../context.ts'
import { exitCodes } from '../exit-codes.ts'
import { withoutPasswords } from '../failure.ts'
import { migrateAll } from '../pipeline.ts'
import { processKinds } from '../process-managers/processes.ts'
import { monitorEntry } from '../processes/entries.ts'
import { Fleet, type Member } from '../processes/fleet.ts'
import { becomeKeeper, KeeperRunsError, type KeeperState } from './control.ts'
import { openRotatingLog } from './rotating-log.ts'

/** Keeps everything running until it is told to stop. `config`: the manifest, null: the lead pipeline. */
export async function keep(context: Context, folder: string, config: string | null): Promise<void> {
  const keeper = new Keeper(context, folder)
  let close: () => void
  try {
    close = await becomeKeeper(folder, (request) => {
      if (request !== 'list') keeper.stop()
      if (request === 'stop-now') keeper.stop()
      return keeper.state
    })
  } catch (error) {
    if (!(error instanceof KeeperRunsError)) throw error
    context.exitCode = exitCodes.nothingDone
    return
  }
  const unwatch = onShutdown({ drain: () => keeper.stop(), stopNow: () => keeper.stop() })
  try {
    await keeper.run(config)
  } finally {
    unwatch()
    close()
  }
}

class Keeper {
  private readonly context: Context
  private readonly folder: string
  private readonly fleets: Fleet[] = []
  private phase: KeeperState['phase'] = 'starting'
  private database: string | null = null
  private stops = 0

  constructor(context: Context, folder: string) {
    this.context = context
    this.folder = folder
  }

  get state(): KeeperState {
    const members = this.fleets.flatMap((fleet) => fleet.members)
    return { pid: process.pid, phase: this.phase, database: this.database, members }
  }

  /** The first time: runners drain, then the others end. Later: everything at once. */
  stop(): void {
    this.stops += 1
    this.phase = 'stopping'
    for (const fleet of this.stops === 1 ? this.fleets.slice(0, 1) : this.fleets) fleet.stop()
  }

  async run(file: string | null): Promise<void> {
    const { terminal, environment } = this.context
    const manifest = file === null ? null : await readManifest(file)
    const config = readConfig(environment, 'monitor')
    const database = await resolveDatabase({
      databaseUrl: config.database.url ?? undefined,
      dataDir: config.database.dataDir,
      log: (event) => terminal.out(event),
    })
    try {
      await migrateAll(database.url)
      this.database = withoutPasswords(database.url)
      if (this.stops > 0) return
      const misconfigured = await this.runFleets(membersOf(manifest), {
        ...environment,
        DATABASE_URL: database.url,
      })
      if (misconfigured) this.context.exitCode = exitCodes.usage
    } finally {
      await database.stop()
    }
  }

  private async runFleets(members: Members, environment: Context['environment']): Promise<boolean> {
    const { terminal } = this.context
    const logs = join(this.folder, 'logs')
    mkdirSync(logs, { recursive: true })
    const files = new Map<Member, (line: string) => void>()
    const lines = (member: Member, line: string): void => {
      const write = files.get(member) ?? openRotatingLog(join(logs, `${member.name}.log`))
      files.set(member, write)
      write(line)
    }
    const options = { terminal, environment, restart: true, nameWidth: 0, lines }
    const workers = new Fleet(members.workers, options)
    const others = new Fleet(members.others, options)
    this.fleets.push(workers, others)
    this.phase = 'running'
    // Who is wrongly configured ends everything, as anywhere else.
    const othersEnded = others.ended.then((misconfigured) => {
      if (misconfigured) workers.stop()
      return misconfigured
    })
    const misconfigured = await workers.ended
    this.phase = 'stopping'
    others.stop()
    return (await othersEnded) || misconfigured
  }
}

function isWorker(member: Member): boolean {
  return member.args.includes('--slot')
}

interface Members {
  readonly workers: readonly Member[]
  readonly others: readonly Member[]
}

/** The processes of a manifest; without one, a runner for each stage of the lead pipeline, and a monitor. */
function membersOf(manifest: Manifest | null): Members {
  if (manifest === null) {
    return {
      workers: runnerMembers({ restart: true }),
      others: [{ name: 'monitor', entry: monitorEntry, args: [] }],
    }
  }
  const members = processKinds(manifest).flatMap((kind) =>
    Array.from({ length: kind.count }, (_, index) => {
      const { entry, directory, env } = kind
      return { name: `${kind.name}@${index + 1}`, entry, directory, env, args: kind.args(index + 1) }
    }),
  )
  return { workers: members.filter(isWorker), others: members.filter((member) => !isWorker(member)) }
}
