/**
 * The keeper: one process in the background that starts everything, starts again what dies, and drains it all at the end.
 *
 * Invariants: one for each folder (control.ts); what it started ends with it, also when it is killed (end-with-parent.ts);
 * every process has a log of its own in logs/ that does not grow beyond a limit. Production has systemd for all this.
 */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { resolveDatabase } from '@leasehold/postgres'
import type { Manifest } from '@leasehold/manifest'
import { onShutdown, readConfig } from '@leasehold/service'
import { runnerMembers } from '../commands/dev.ts'
import type { Context } from '../context.ts'
import { type ExitCode, exitCodes } from '../exit-codes.ts'
import { withoutPasswords } from '../failure.ts'
import { openManifest } from '../manifest/read.ts'
import { migrateAll } from '../pipeline.ts'
import { processKinds } from '../process-managers/processes.ts'
import { monitorEntry } from '../processes/entries.ts'
import { Fleet, type Member } from '../processes/fleet.ts'
import { readableLine } from '../processes/log-lines.ts'
import { becomeKeeper, KeeperRunsError, type KeeperState, type KeptMember } from './control.ts'
import { openRotatingLog } from './rotating-log.ts'

/** A process that has neither shown that it works nor ended by then is taken to be slow. */
const begunWithinMs = 60_000
const lookEveryMs = 250
const lastLinesKept = 6

/** Keeps everything running until it is told to stop. `config`: the manifest, null: the lead pipeline. */
export async function keep(context: Context, folder: string, config: string | null): Promise<ExitCode> {
  const keeper = new Keeper(context, folder)
  let close: () => void
  try {
    close = await becomeKeeper(folder, async (request) => {
      if (request === 'begun') await keeper.begun
      if (request === 'stop' || request === 'stop-now') keeper.stop()
      if (request === 'stop-now') keeper.stop()
      return keeper.state
    })
  } catch (error) {
    if (error instanceof KeeperRunsError) return exitCodes.nothingDone
    throw error
  }
  const unwatch = onShutdown({ drain: () => keeper.stop(), stopNow: () => keeper.stop() })
  try {
    return await keeper.run(config)
  } finally {
    unwatch()
    close()
  }
}

class Keeper {
  /** Resolves when every process has shown that it works or has ended, or a minute has passed. */
  readonly begun: Promise<void>
  private readonly context: Context
  private readonly folder: string
  private readonly log: (line: string) => void
  private readonly fleets: Fleet[] = []
  private readonly lastLines = new Map<string, string[]>()
  private readonly stopAsked: Promise<void>
  private phase: KeeperState['phase'] = 'starting'
  private database: string | null = null
  private stops = 0
  private haveBegun: () => void = () => {}
  private tellStop: () => void = () => {}

  constructor(context: Context, folder: string) {
    const logs = join(folder, 'logs')
    mkdirSync(logs, { recursive: true })
    const write = openRotatingLog(join(logs, 'keeper.log'))
    this.log = (line) => write(`${new Date().toISOString()} ${line}`)
    this.context = { ...context, terminal: { ...context.terminal, out: this.log, note: this.log } }
    this.folder = folder
    this.begun = new Promise((resolve) => (this.haveBegun = resolve))
    this.stopAsked = new Promise((resolve) => (this.tellStop = resolve))
  }

  get state(): KeeperState {
    const members = this.fleets
      .flatMap((fleet) => fleet.members)
      .map((member) => ({
        ...member,
        lastLines: this.lastLines.get(member.name) ?? [],
      }))
    return { pid: process.pid, phase: this.phase, database: this.database, members }
  }

  /** The first time: runners drain, then the others end. Later: everything at once. */
  stop(): void {
    this.stops += 1
    this.phase = 'stopping'
    this.tellStop()
    for (const fleet of this.stops === 1 ? this.fleets.slice(0, 1) : this.fleets) fleet.stop()
  }

  /** Runs everything to its end; answers with what the keeper's process is to end with. */
  async run(file: string | null): Promise<ExitCode> {
    const { terminal, environment } = this.context
    const members = membersOf(file === null ? null : await openManifest(file))
    const config = readConfig(environment, 'monitor')
    const database = await resolveDatabase({
      databaseUrl: config.database.url ?? undefined,
      dataDir: config.database.dataDir,
      log: (event) => terminal.out(event),
    })
    try {
      await migrateAll(database.url)
      this.database = withoutPasswords(database.url)
      if (this.stops > 0) return exitCodes.ok
      const beginning = this.watchBegin()
      const misconfigured = await this.runFleets(members, { ...environment, DATABASE_URL: database.url })
      await beginning
      return misconfigured ? exitCodes.usage : exitCodes.ok
    } finally {
      this.haveBegun()
      await database.stop()
    }
  }

  private async runFleets(members: Members, environment: Context['environment']): Promise<boolean> {
    const options = {
      terminal: this.context.terminal,
      environment,
      restart: true,
      nameWidth: 0,
      lines: this.openLogs(),
    }
    const workers = new Fleet(members.workers, options)
    const others = new Fleet(members.others, options)
    this.fleets.push(workers, others)
    this.phase = 'running'
    // Who is wrongly configured ends everything, as anywhere else.
    const othersEnded = others.ended.then((misconfigured) => {
      if (misconfigured) workers.stop()
      return misconfigured
    })
    // Without workers it is the others, or a request, that end it.
    if (members.workers.length === 0) await Promise.race([othersEnded, this.stopAsked])
    const misconfigured = await workers.ended
    this.phase = 'stopping'
    others.stop()
    return (await othersEnded) || misconfigured
  }

  /** A log for each process, and the end of it for whoever asks why it ended. */
  private openLogs(): (member: Member, line: string) => void {
    const files = new Map<Member, (line: string) => void>()
    return (member, line) => {
      const write = files.get(member) ?? openRotatingLog(join(this.folder, 'logs', `${member.name}.log`))
      files.set(member, write)
      write(line)
      const earlier = this.lastLines.get(member.name) ?? []
      const readable = readableLine({ ...this.context.terminal, paint: (_style, text) => text }, line)
      this.lastLines.set(member.name, [...earlier, readable].slice(-lastLinesKept))
    }
  }

  /** Waits until every process works or has ended. */
  private async watchBegin(): Promise<void> {
    const end = performance.now() + begunWithinMs
    do await delay(lookEveryMs)
    while (performance.now() < end && !this.state.members.every(hasBegunOrEnded))
    this.haveBegun()
  }
}

function hasBegunOrEnded(member: KeptMember): boolean {
  return member.ready || member.failures > 0 || (member.restarts >= 0 && member.pid === null)
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
      others: [{ name: 'heartbeat-monitor', entry: monitorEntry, args: [] }],
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
