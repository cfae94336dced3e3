/**
 * The runner daemon: wires configuration, log, database, signals and systemd around one runner.
 *
 * It starts before its database answers and outlives every outage; it ends by a signal or when it is asked to drain (exit
 * code 0), by a wrong configuration (2), by a schema that is not this program's (1), or because another process has taken
 * its slot (5). One process per slot; systemd or a script starts as many as are wanted. All logic is in @leasehold/runner.
 */
import { hostname } from 'node:os'
import { openPool, resolveDatabase } from '@leasehold/postgres'
import { type Runner, startRunner } from '@leasehold/runner'
import {
  type Config,
  createLogger,
  type Logger,
  notifier,
  onShutdown,
  readConfig,
  runMain,
} from '@leasehold/service'
import { type Arguments, readArguments } from './arguments.ts'
import { untilSchemaFits } from './schema.ts'
import { loadStages } from './stages.ts'

const version = '0.1.0'
/** After the end, what a handler or a library left running ends with the process. */
const lingerMs = 500

/** Runs the daemon to its end; `toldBefore` hands over the signals and says whether one came already. */
export async function runDaemon(toldBefore: () => boolean): Promise<void> {
  await runMain(async () => {
    const stopping = new AbortController()
    let runner: Runner | null = null
    const unwatch = onShutdown({
      drain: () => stopping.abort(),
      stopNow: () => void (runner === null ? process.exit() : runner.stopNow()),
    })
    if (toldBefore()) stopping.abort()
    try {
      await work(stopping.signal, (started) => (runner = started))
    } finally {
      unwatch()
      setTimeout(() => process.exit(), lingerMs).unref()
    }
  })
}

async function work(stop: AbortSignal, started: (runner: Runner) => void): Promise<void> {
  const given = readArguments(process.argv.slice(2))
  const config = readConfig(process.env, 'runner')
  const log = createLogger({ level: config.log.level, name: 'runner' })
  if (stop.aborted) return
  const systemd = notifier(process.env)
  stop.addEventListener('abort', () => systemd.stopping())
  const watchdog = new Watchdog(systemd, config.lease.wedgeLimitMs)
  const { url: databaseUrl, dataDir } = config.database
  const database = await resolveDatabase({ databaseUrl: databaseUrl ?? undefined, dataDir })
  const pool = openPool({ connectionString: database.url, applicationName: 'leasehold stages', max: 10 })
  try {
    // Ready means "it works as soon as it can": a database that is away must not let the start of the unit time out.
    systemd.ready()
    systemd.status('waiting for the database')
    if (!(await untilSchemaFits(pool, log, () => watchdog.turned(), stop))) return
    const stages = await loadStages(given.module, given.stages, {
      db: pool,
      model: config.model,
      log: (facts, message) => log.info(facts, message),
    })
    const slot = slotFor(given, config, stages.map((stage) => stage.name)) // prettier-ignore
    const runner = await startRunner(
      { connectionString: database.url, stages, slot, log, version, ...settingsOf(given, config), onTurn: () => watchdog.turned() }, // prettier-ignore
      stop,
    )
    started(runner)
    if (stop.aborted) void runner.drain()
    stop.addEventListener('abort', () => void runner.drain())
    const telling = setInterval(() => systemd.status(statusLine(runner)), 5000)
    await runner.ended.finally(() => clearInterval(telling))
  } catch (error) {
    if (error === stop.reason) return // told to stop before it had started
    logFault(log, error)
    throw error
  } finally {
    watchdog.close()
    await Promise.race([
      pool.end().catch(() => {}),
      new Promise((over) => setTimeout(over, lingerMs).unref()),
    ])
    await database.stop()
  }
}

/** Without SLOT_ID every process has a slot of its own; with it, a restart takes over at once. */
function slotFor(given: Arguments, config: Config, stages: string[]): string {
  const own = `${stages.join('+').slice(0, 50)}@${hostname().slice(0, 30)}.${process.pid}`
  return given.slot ?? config.runner.slot ?? own
}

function settingsOf(
  given: Arguments,
  config: Config,
): Omit<Parameters<typeof startRunner>[0], 'connectionString' | 'stages' | 'slot' | 'log'> {
  const concurrency = given.concurrency ?? config.runner.concurrency
  const runFilterId = given.run ?? config.runner.runFilter
  return {
    leaseTtlMs: config.lease.ttlMs,
    beatIntervalMs: config.lease.beatIntervalMs,
    wedgeLimitMs: config.lease.wedgeLimitMs,
    maxPollMs: config.runner.pollMs,
    drainTimeoutMs: config.runner.drainTimeoutMs,
    monitorSilentAfterMs: config.monitor.intervalMs * 3,
    ...(concurrency === null ? {} : { concurrency }),
    ...(runFilterId === null ? {} : { runFilterId }),
  }
}

/** Feeds systemd's watchdog while the main loop turns: one that stands still is killed and started again. */
class Watchdog {
  private turnedAt = performance.now()
  private readonly feeding: NodeJS.Timeout | null

  constructor(systemd: ReturnType<typeof notifier>, limitMs: number) {
    const everyMs = systemd.watchdogIntervalMs
    const feed = (): void => {
      if (performance.now() - this.turnedAt < limitMs) systemd.watchdog()
    }
    this.feeding = everyMs === null ? null : setInterval(feed, everyMs)
  }

  turned(): void {
    this.turnedAt = performance.now()
  }

  close(): void {
    clearInterval(this.feeding ?? undefined)
  }
}

function statusLine(runner: Runner): string {
  const { held, settled } = runner.counts
  return `${runner.slot}: ${held} running, ${settled} settled since the start`
}

function logFault(log: Logger, error: unknown): void {
  const { code, message } = error as { code?: string; message?: string }
  log.error({ event: 'runner.fault', code, message }, 'the runner ended')
}
