/**
 * The control service: a server that tells what watches from outside, in the shell that all daemons share.
 *
 * It listens before its database answers, so that /healthz and /metrics say which part is away, and outlives every outage;
 * it is ready after the first successful read. It ends by a signal, by a wrong configuration (exit code 2), by an address
 * that is taken, a login that is refused or a schema that is not this program's (1). Any number may run.
 */
import { retryDelayMs, sleep, withReadyDatabase } from '@leasehold/postgres'
import { LeaseholdError, describeError } from '@leasehold/queue'
import { type Config, type DaemonLife, readConfig, runDaemon as runInShell } from '@leasehold/service'
import { Metrics } from './metrics.ts'
import { type Room, openRoom } from './room.ts'
import { Source } from './source.ts'

const statusEveryMs = 5_000
/** Without a turn of the loop for this much longer than its wait, systemd is not fed. */
const watchdogSlackMs = 15_000

/** Runs the daemon to its end; `toldBefore` hands over the signals and says whether one came already. */
export function runDaemon(toldBefore: () => boolean): Promise<void> {
  return runInShell({
    name: 'control',
    home: import.meta.url,
    toldBefore,
    readTold: () => ({ config: readConfig(process.env, 'control') }),
    work: control,
  })
}

async function control({ config }: { readonly config: Config }, life: DaemonLife): Promise<void> {
  const { stop, log, version, told } = life
  const { host, port, token } = config.control
  const metrics = new Metrics(version)
  const source = new Source(log, (answer) => metrics.note(answer))
  const room = await openRoom({ host, port, token, source, metrics, log })
  log.info({ event: 'control.listening', address: room.address, guarded: token !== null }, 'listening')
  const { url: databaseUrl, dataDir } = config.database
  const database = { databaseUrl, dataDir, applicationName: 'leasehold control start', stop, ...told }
  const onWaiting = (error: unknown): void => {
    source.waits(error)
    told.onWaiting(error)
  }
  try {
    await withReadyDatabase({ ...database, onWaiting }, async ({ url }) => {
      source.open(url)
      if (await firstRead(source, life)) await serve(room, life)
      // Before an embedded server that was started for this ends.
      await room.close()
    })
  } finally {
    await room.close()
    await source.close()
  }
}

/**
 * Waits until everything could be read once; false when it was told to end before. Throws what waiting would not change:
 * rights that the login lacks.
 */
async function firstRead(source: Source, life: DaemonLife): Promise<boolean> {
  for (let tries = 1; !life.stop.aborted; tries += 1) {
    const answer = await Promise.race([source.overview.get(), life.stopped.then(() => null)])
    if (answer === null) return false
    if (answer.ok) return true
    const { code, message } = describeError(answer.error)
    if (code === '42501')
      throw new LeaseholdError(
        'NOT_ALLOWED',
        `This login may not read what the control service tells: ${message}. Grant leasehold_observer to it.`,
        { cause: answer.error },
      )
    life.status(`waiting for the database: ${message}`)
    await sleep(retryDelayMs(tries), life.stop)
  }
  return false
}

/** Ready, until it is told to end. The server works by itself; this loop shows that the process turns. */
async function serve(room: Room, life: DaemonLife): Promise<void> {
  const { log, stop } = life
  log.info({ event: 'control.started', address: room.address }, 'control service started')
  life.ready()
  let dueAt = performance.now()
  life.watchdog.feedWhile(() => performance.now() - dueAt, watchdogSlackMs)
  while (!stop.aborted) {
    life.status(`listening on ${room.address}; ${room.scrapes} ${room.scrapes === 1 ? 'scrape' : 'scrapes'}`)
    dueAt = performance.now() + statusEveryMs
    await sleep(statusEveryMs, stop)
  }
  log.info({ event: 'control.stopping', scrapes: room.scrapes }, 'control service stops')
}
