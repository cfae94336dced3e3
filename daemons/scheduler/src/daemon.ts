/**
 * The scheduler daemon: wires configuration, log, database, signals and systemd around one scheduler.
 *
 * It starts before its database answers and outlives every outage; it ends by a signal, by a wrong configuration
 * (exit code 2) or by a schema that is not this program's (1). Any number may run. All logic is in scheduler.ts.
 */
import { readFileSync } from 'node:fs'
import { OutageLog, assertSchema, openPool, resolveDatabase, retryDelayMs, sleep } from '@leasehold/postgres'
import { LeaseholdError, describeError } from '@leasehold/queue'
import { beginStart, createLogger, notifier, onShutdown, readConfig, runMain } from '@leasehold/service'
import { type Log, type Scheduler, startScheduler } from './scheduler.ts'
import type { Turn } from './tick.ts'

/** Without a turn of the loop for this much longer than its wait, systemd is not fed: a turn takes half a minute at most. */
const watchdogSlackMs = 45_000
/** After a stop, what a library left running ends with the process. */
const lingerMs = 2_000

/** Runs the daemon to its end; `toldBefore` hands over the signals and says whether one came already. */
export async function runDaemon(toldBefore: () => boolean): Promise<void> {
  await runMain(async () => {
    const stopping = new AbortController()
    const unwatch = onShutdown({ drain: () => stopping.abort(), stopNow: () => process.exit(1) })
    if (toldBefore()) stopping.abort()
    try {
      await schedule(stopping.signal)
    } finally {
      unwatch()
      setTimeout(() => process.exit(), lingerMs).unref()
    }
  })
}

async function schedule(stop: AbortSignal): Promise<void> {
  const config = readConfig(process.env, 'scheduler')
  const log = createLogger({ level: config.log.level, name: 'scheduler' })
  if (stop.aborted) return
  const systemd = notifier(process.env)
  const start = beginStart(systemd)
  const { url: databaseUrl, dataDir } = config.database
  const database = await resolveDatabase({ databaseUrl: databaseUrl ?? undefined, dataDir })
  const { version }: { version: string } = JSON.parse(
    readFileSync(new URL('../package.json', import.meta.url), 'utf8'),
  )
  const { pollMs } = config.scheduler
  try {
    systemd.status('waiting for the database')
    await untilSchemaFits(database.url, log, stop)
    if (stop.aborted) return
    let fired = 0
    const scheduler = startScheduler({
      connectionString: database.url,
      pollMs,
      log,
      version,
      onTurn: (turn) => {
        start.ready()
        fired += turn.carried.flatMap((one) => one.recorded).filter((one) => one.outcome === 'fired').length
        systemd.status(statusLine(fired, turn))
      },
    })
    log.info({ event: 'scheduler.started', schedulerId: scheduler.id, pollMs }, 'scheduler started')
    const unfeed = feedWatchdog(systemd, scheduler)
    await aborted(stop)
    systemd.stopping()
    await scheduler.stop()
    unfeed()
    log.info({ event: 'scheduler.stopped', fired }, 'scheduler stopped')
  } catch (error) {
    await start.failed(error, stop)
    throw error
  } finally {
    start.end()
    await database.stop()
  }
}

/** Checks the schema as soon as the database answers. Throws SchemaVersionError and refusals of the login. */
async function untilSchemaFits(url: string, log: Log, stop: AbortSignal): Promise<void> {
  const pool = openPool({ connectionString: url, applicationName: 'leasehold scheduler start', max: 1 })
  const outage = new OutageLog()
  try {
    while (!stop.aborted) {
      try {
        await Promise.race([assertSchema(pool), aborted(stop)])
        return
      } catch (error) {
        const { code, message } = describeError(error)
        if (error instanceof LeaseholdError || /^(28|3D|42)...$/.test(code)) throw error
        if (outage.failed())
          log.warn(
            { event: 'start.waiting', code, reason: message },
            'the database cannot be used yet; trying again',
          )
        await sleep(retryDelayMs(outage.count), stop)
      }
    }
  } finally {
    void pool.end().catch(() => {})
  }
}

/** Feeds systemd's watchdog while the loop comes round; answers with a function that stops feeding. */
function feedWatchdog(systemd: ReturnType<typeof notifier>, scheduler: Scheduler): () => void {
  if (systemd.watchdogIntervalMs === null) return () => {}
  const feed = (): void => {
    if (scheduler.overdueMs() < watchdogSlackMs) systemd.watchdog()
  }
  feed()
  const feeding = setInterval(feed, systemd.watchdogIntervalMs)
  return () => clearInterval(feeding)
}

function statusLine(fired: number, { waitMs }: Turn): string {
  const next = waitMs === null ? 'no slot ahead' : `next slot in ${Math.ceil(waitMs / 1_000)} s`
  return `${fired} fired since the start; ${next}`
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })
}
