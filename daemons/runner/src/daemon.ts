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
  beginStart,
  type Config,
  createLogger,
  type Logger,
  type Notifier,
  notifier,
  onShutdown,
  runMain,
} from '@leasehold/service'
import type { Arguments } from './arguments.ts'
import type { Declared } from './declared.ts'
import { untilSchemaFits } from './schema.ts'
import { loadStages, type StageSurroundings } from './stages.ts'
import { readTold } from './told.ts'

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

async function work(stop: AbortSignal, take: (runner: Runner) => void): Promise<void> {
  const { given, declared, config } = await readTold(process.argv.slice(2), process.env)
  const log = createLogger({ level: config.log.level, name: 'runner' })
  if (stop.aborted) return
  const systemd = notifier(process.env)
  stop.addEventListener('abort', () => systemd.stopping())
  const watchdog = new Watchdog(systemd)
  const start = beginStart(systemd)
  const { url: databaseUrl, dataDir } = config.database
  const database = await resolveDatabase({ databaseUrl: databaseUrl ?? undefined, dataDir })
  const pool = openPool({
    connectionString: database.url,
    applicationName: 'leasehold stages',
    max: 10,
    userStatements: true,
  })
  try {
    systemd.status('waiting for the database')
    const schema = await untilSchemaFits(database.url, log, stop)
    if (schema === null) return
    systemd.status('taking the slot')
    const surroundings: StageSurroundings = {
      db: pool,
      model: config.model,
      log: (facts, message) => log.info(facts, message),
    }
    const stages =
      declared === null
        ? await loadStages(given.module, given.stages, surroundings)
        : await declared.stages({ ...process.env, DATABASE_URL: database.url }, surroundings)
    const slot = slotFor(given, config, stages.map((stage) => stage.name)) // prettier-ignore
    const runner = await startRunner(
      {
        connectionString: database.url,
        stages,
        slot,
        log,
        version,
        ...(schema.programVersion !== null && { schemaVersion: schema.programVersion }),
        ...settingsOf(given, declared, config, watchdog),
        onTurn: () => watchdog.turned(),
        onBeat: () => start.ready(),
      },
      stop,
    )
    take(runner)
    if (stop.aborted) void runner.drain()
    stop.addEventListener('abort', () => void runner.drain())
    const telling = setInterval(() => systemd.status(statusLine(runner)), 5000)
    await runner.ended.finally(() => clearInterval(telling))
  } catch (error) {
    if (error === stop.reason) return // told to stop before it had started
    logFault(log, error)
    await start.failed(error, stop)
    throw error
  } finally {
    start.end()
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
  declared: Declared | null,
  config: Config,
  watchdog: Watchdog,
): Omit<Parameters<typeof startRunner>[0], 'connectionString' | 'stages' | 'slot' | 'log'> {
  const concurrency = given.concurrency ?? declared?.worker.concurrency ?? config.runner.concurrency
  const runFilterId = given.run ?? config.runner.runFilter
  return {
    leaseTtlMs: config.lease.ttlMs,
    beatIntervalMs: config.lease.beatIntervalMs,
    // The loop turns often enough for the stricter of the two who watch it.
    wedgeLimitMs: Math.min(config.lease.wedgeLimitMs, watchdog.limitMs),
    maxPollMs: config.runner.pollMs,
    drainTimeoutMs: config.runner.drainTimeoutMs,
    monitorSilentAfterMs: config.monitor.intervalMs * 3,
    ...(concurrency === null ? {} : { concurrency }),
    ...(runFilterId === null ? {} : { runFilterId }),
  }
}

/** Feeds systemd's watchdog by the turns of the main loop alone: one that stands still is killed when its time is over. */
class Watchdog {
  /** After how long without a turn systemd kills; infinite when it does not watch. */
  readonly limitMs: number
  private readonly systemd: Notifier
  private fedAt = -Infinity

  constructor(systemd: Notifier) {
    this.systemd = systemd
    this.limitMs = systemd.watchdogIntervalMs === null ? Infinity : systemd.watchdogIntervalMs * 2
  }

  turned(): void {
    const now = performance.now()
    if (now - this.fedAt < Math.min(this.limitMs / 20, 1_000) || this.limitMs === Infinity) return
    this.fedAt = now
    this.systemd.watchdog()
  }
}

function statusLine(runner: Runner): string {
  const { held, settled } = runner.counts
  const { unwatchedMs } = runner
  const alone =
    unwatchedMs === undefined
      ? ''
      : unwatchedMs === null
        ? '; no monitor has ever looked'
        : `; no monitor for ${Math.round(unwatchedMs / 60_000)} min`
  return `${runner.slot}: ${held} running, ${settled} settled since the start${alone}`
}

function logFault(log: Logger, error: unknown): void {
  const { code, message } = error as { code?: string; message?: string }
  log.error({ event: 'runner.fault', code, message }, 'the runner ended')
}
