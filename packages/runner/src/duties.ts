/**
 * What every runner does on the side for the whole queue: moves floors while there is traffic, and releases dead workers
 * when no monitor has looked for long. On a connection of its own, never in the way of the main loop.
 */
import { advanceFloors, type DeadWorker, type Db, monitorSilenceMs, releaseDeadWorkers } from '@leasehold/queue'
import { OutageLog, sleep } from '@leasehold/postgres'
import type { RunnerLog } from './options.ts'

const floorsEveryMs = 300

/** Runs until `stop` aborts. `traffic` is the number of exchanges so far. Never rejects. */
export async function attendDuties(
  duties: {
    db: Db
    log: RunnerLog
    traffic: () => number
    lookEveryMs: number
    monitorSilentAfterMs: number
    released: (workers: DeadWorker[]) => void
  },
  stop: AbortSignal,
): Promise<void> {
  const outage = new OutageLog()
  let seenTraffic = -1
  let lookedAt = performance.now() - Math.random() * duties.lookEveryMs
  let silent = false
  while (!stop.aborted) {
    try {
      if (duties.traffic() !== seenTraffic) {
        seenTraffic = duties.traffic()
        await advanceFloors(duties.db)
      }
      if (performance.now() - lookedAt >= duties.lookEveryMs) {
        lookedAt = performance.now()
        silent = await standInForMonitor(duties, silent)
      }
      outage.recovered()
    } catch (error) {
      if (outage.failed()) {
        duties.log.warn({ event: 'duties.failed', message: (error as Error).message }, 'side duties failed; trying again')
      }
    }
    await sleep(outage.count > 0 ? 2000 : floorsEveryMs, stop)
  }
}

async function standInForMonitor(duties: Parameters<typeof attendDuties>[0], wasSilent: boolean): Promise<boolean> {
  const silenceMs = await monitorSilenceMs(duties.db)
  const silent = silenceMs === null || silenceMs > duties.monitorSilentAfterMs
  if (silent && !wasSilent) {
    const facts = { event: 'monitor.silent', silenceMs }
    duties.log.warn(facts, 'no monitor looks after the workers; this runner releases dead ones itself, nobody is mailed')
  }
  if (silent) {
    const dead = await releaseDeadWorkers(duties.db)
    if (dead.length > 0) duties.released(dead)
  }
  return silent
}
