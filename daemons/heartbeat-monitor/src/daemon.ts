/**
 * The heartbeat-monitor daemon: one monitor in the shell that all daemons share (@leasehold/service).
 *
 * It starts before its database answers and outlives every outage; it ends by a signal, by a wrong configuration
 * (exit code 2), by a login that is refused or a schema that is not this program's (1). All logic is in monitor.ts;
 * main.ts loads this file.
 */
import { withReadyDatabase } from '@leasehold/postgres'
import { type Config, type DaemonLife, readConfig, runDaemon as runInShell } from '@leasehold/service'
import { channelSettings } from './channels/settings.ts'
import { type Look, type MonitorOptions, startMonitor } from './index.ts'

/** A stage without a worker is told after one interval, but a restart is given this long. */
const minLonelyMs = 10_000
/** Without a turn of the loop for this much longer than its interval, systemd is not fed: a look takes a minute at most. */
const watchdogSlackMs = 120_000

/** Runs the daemon to its end; `toldBefore` hands over the signals and says whether one came already. */
export function runDaemon(toldBefore: () => boolean): Promise<void> {
  return runInShell({
    name: 'heartbeat-monitor',
    home: import.meta.url,
    toldBefore,
    readTold: () => ({ config: readConfig(process.env, 'monitor') }),
    work: watch,
  })
}

function watch({ config }: { readonly config: Config }, life: DaemonLife): Promise<void> {
  const { stop, log, version, watchdog, told } = life
  const { url: databaseUrl, dataDir } = config.database
  const { intervalMs } = config.monitor
  const database = { databaseUrl, dataDir, applicationName: 'leasehold monitor start', stop, ...told }
  return withReadyDatabase(database, async ({ url }) => {
    const monitor = await startMonitor({
      ...monitorOptions(config),
      connectionString: url,
      log,
      version,
      onTick: (found) => {
        life.ready()
        life.status(statusLine(found))
      },
    })
    log.info({ event: 'monitor.started', monitorId: monitor.id, intervalMs }, 'monitor started')
    watchdog.feedWhile(() => monitor.overdueMs(), intervalMs + watchdogSlackMs)
    await life.stopped
    await monitor.stop()
    log.info({ event: 'monitor.stopped' }, 'monitor stopped')
  })
}

function monitorOptions(
  config: Config,
): Omit<MonitorOptions, 'connectionString' | 'log' | 'version' | 'onTick'> {
  const { intervalMs } = config.monitor
  return {
    intervalMs,
    wedgeLimitMs: config.lease.wedgeLimitMs,
    lonelyAfterMs: Math.max(intervalMs, minLonelyMs),
    ...channelSettings(config, process.env),
    pingUrl: config.alerts.pingUrl,
  }
}

function statusLine(found: Look): string {
  if (!found.looked) return 'another monitor looks; standing by'
  if (found.untold !== null) return `looked, but nobody can be told: ${found.untold.slice(0, 200)}`
  return `looked: ${found.opened.length} incidents opened, ${found.resolved.length} resolved`
}
