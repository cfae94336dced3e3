/**
 * The heartbeat-monitor daemon: wires configuration, log, database, signals and systemd around one monitor.
 *
 * It starts before its database answers and outlives every outage; it ends by a signal, by a wrong configuration
 * (exit code 2) or by a schema that is not this program's. All logic is in monitor.ts; main.ts loads this file.
 */
import { readFileSync } from 'node:fs'
import { assertSchema, openPool, resolveDatabase, retryDelayMs, sleep } from '@leasehold/postgres'
import { SchemaVersionError } from '@leasehold/queue'
import {
  beginStart,
  type Config,
  createLogger,
  notifier,
  onShutdown,
  readConfig,
  runMain,
} from '@leasehold/service'
import { channelSettings } from './channels/settings.ts'
import { Contact } from './contact.ts'
import { type Log, type Look, type Monitor, type MonitorOptions, startMonitor } from './index.ts'

/** A stage without a worker is told after one interval, but a restart is given this long. */
const minLonelyMs = 10_000
/** Without a turn of the loop for this much longer than its interval, systemd is not fed: a look takes a minute at most. */
const watchdogSlackMs = 120_000
/** After a stop, what a library left running ends with the process. */
const lingerMs = 2_000

/** Runs the daemon to its end; `toldBefore` hands over the signals and says whether one came already. */
export async function runDaemon(toldBefore: () => boolean): Promise<void> {
  await runMain(async () => {
    const stopping = new AbortController()
    const unwatch = onShutdown({
      drain: () => stopping.abort(),
      stopNow: () => process.exit(1),
    })
    if (toldBefore()) stopping.abort()
    try {
      await watch(stopping.signal)
    } finally {
      unwatch()
      setTimeout(() => process.exit(), lingerMs).unref()
    }
  })
}

async function watch(stop: AbortSignal): Promise<void> {
  const config = readConfig(process.env, 'monitor')
  const log = createLogger({ level: config.log.level, name: 'heartbeat-monitor' })
  if (stop.aborted) return
  const systemd = notifier(process.env)
  const start = beginStart(systemd)
  const database = await resolveDatabase({
    databaseUrl: config.database.url ?? undefined,
    dataDir: config.database.dataDir,
  })
  try {
    systemd.status('waiting for the database')
    await untilSchemaFits(database.url, log, stop)
    if (stop.aborted) return
    const monitor = await startMonitor({
      ...monitorOptions(config),
      connectionString: database.url,
      log,
      onTick: (found) => {
        start.ready()
        systemd.status(statusLine(found))
      },
    })
    log.info(
      { event: 'monitor.started', monitorId: monitor.id, intervalMs: config.monitor.intervalMs },
      'monitor started',
    )
    const unfeed = feedWatchdog(systemd, monitor, config.monitor.intervalMs)
    await aborted(stop)
    systemd.stopping()
    await monitor.stop()
    unfeed()
    log.info({ event: 'monitor.stopped' }, 'monitor stopped')
  } catch (error) {
    await start.failed(error, stop)
    throw error
  } finally {
    start.end()
    await database.stop()
  }
}

function monitorOptions(config: Config): Omit<MonitorOptions, 'connectionString' | 'log' | 'onTick'> {
  const { intervalMs } = config.monitor
  const { version }: { version: string } = JSON.parse(
    readFileSync(new URL('../package.json', import.meta.url), 'utf8'),
  )
  return {
    intervalMs,
    wedgeLimitMs: config.lease.wedgeLimitMs,
    lonelyAfterMs: Math.max(intervalMs, minLonelyMs),
    ...channelSettings(config, process.env),
    pingUrl: config.alerts.pingUrl,
    version,
  }
}

/** Checks the schema as soon as the database answers. Throws SchemaVersionError; returns early when told to stop. */
async function untilSchemaFits(url: string, log: Log, stop: AbortSignal): Promise<void> {
  const pool = openPool({ connectionString: url, applicationName: 'leasehold monitor start', max: 1 })
  const contact = new Contact(log)
  try {
    while (!stop.aborted) {
      try {
        await assertSchema(pool)
        contact.reached()
        return
      } catch (error) {
        if (error instanceof SchemaVersionError) throw error
        contact.failed('schema', error)
        await sleep(retryDelayMs(contact.failures), stop)
      }
    }
  } finally {
    await pool.end().catch(() => {})
  }
}

/** Feeds systemd's watchdog while the loop of looks comes round; answers with a function that stops feeding. */
function feedWatchdog(
  systemd: ReturnType<typeof notifier>,
  monitor: Monitor,
  intervalMs: number,
): () => void {
  if (systemd.watchdogIntervalMs === null) return () => {}
  const feeding = setInterval(() => {
    if (monitor.overdueMs() < intervalMs + watchdogSlackMs) systemd.watchdog()
  }, systemd.watchdogIntervalMs)
  return () => clearInterval(feeding)
}

function statusLine(found: Look): string {
  if (!found.looked) return 'another monitor looks; standing by'
  return `looked: ${found.opened.length} incidents opened, ${found.resolved.length} resolved`
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })
}
