/**
 * The scheduler daemon: one scheduler in the shell that all daemons share (@leasehold/service).
 *
 * It starts before its database answers and outlives every outage; it ends by a signal, by a wrong configuration
 * (exit code 2), by a login that is refused or a schema that is not this program's (1). Any number may run. All logic is
 * in scheduler.ts.
 */
import { withReadyDatabase } from '@leasehold/postgres'
import { type Config, type DaemonLife, readConfig, runDaemon as runInShell } from '@leasehold/service'
import { startScheduler } from './scheduler.ts'
import type { Turn } from './tick.ts'

/** Without a turn of the loop for this much longer than its wait, systemd is not fed: a turn takes half a minute at most. */
const watchdogSlackMs = 45_000

/** Runs the daemon to its end; `toldBefore` hands over the signals and says whether one came already. */
export function runDaemon(toldBefore: () => boolean): Promise<void> {
  return runInShell({
    name: 'scheduler',
    home: import.meta.url,
    toldBefore,
    readTold: () => ({ config: readConfig(process.env, 'scheduler') }),
    work: schedule,
  })
}

function schedule({ config }: { readonly config: Config }, life: DaemonLife): Promise<void> {
  const { stop, log, version, watchdog, told } = life
  const { url: databaseUrl, dataDir } = config.database
  const { pollMs } = config.scheduler
  const database = { databaseUrl, dataDir, applicationName: 'leasehold scheduler start', stop, ...told }
  return withReadyDatabase(database, async ({ url }) => {
    let fired = 0
    const scheduler = startScheduler({
      connectionString: url,
      pollMs,
      log,
      version,
      onTurn: (turn) => {
        life.ready()
        fired += turn.carried.flatMap((one) => one.recorded).filter((one) => one.outcome === 'fired').length
        life.status(statusLine(fired, turn))
      },
    })
    log.info({ event: 'scheduler.started', schedulerId: scheduler.id, pollMs }, 'scheduler started')
    watchdog.feedWhile(() => scheduler.overdueMs(), watchdogSlackMs)
    await life.stopped
    await scheduler.stop()
    log.info({ event: 'scheduler.stopped', fired }, 'scheduler stopped')
  })
}

function statusLine(fired: number, { waitMs }: Turn): string {
  const next = waitMs === null ? 'no slot ahead' : `next slot in ${Math.ceil(waitMs / 1_000)} s`
  return `${fired} fired since the start; ${next}`
}
