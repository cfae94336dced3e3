/**
 * What every runner does on the side for the whole queue: moves floors while there is traffic, and releases dead workers
 * when no monitor has looked for long. On a connection of its own, never in the way of the main loop.
 *
 * A runner that is not sure of its own lease releases nobody: after a long stop of its process everybody looks dead, it
 * itself included.
 */
import { advanceFloors, type Db, monitorSilenceMs, releaseDeadWorkers } from '@leasehold/queue'
import { OutageLog, retryDelayMs, sleep } from '@leasehold/postgres'
import type { RunnerLog } from './options.ts'

const turnEveryMs = 300
/** Over all runners: so often floors move while there is traffic. */
const floorsEveryMs = 200
/** So long this runner leaves them to others, when one of these was quicker. */
const leftToOthersMs = 1_000

/** What the duties need of their runner. */
export interface Duties {
  readonly db: Db
  readonly log: RunnerLog
  readonly lookEveryMs: number
  readonly monitorSilentAfterMs: number
  /** The longest pause between tries while the database is away. */
  readonly maxRetryMs: number
  /** The number of exchanges so far. */
  traffic(): number
  /** Whether this runner's own lease is valid beyond doubt. */
  sure(): boolean
  /** For how long no monitor has looked, asked just now; null: none ever did. */
  silence(ms: number | null): void
  /** Dead workers were released: there may be work. */
  released(): void
}

/** Runs until `stop` aborts. Never rejects. */
export async function attendDuties(duties: Duties, stop: AbortSignal): Promise<void> {
  const outage = new OutageLog()
  let seenTraffic = -1
  let lookedAt = performance.now() - Math.random() * duties.lookEveryMs
  let silent = false
  let floorsDueAt = -Infinity
  while (!stop.aborted) {
    try {
      if (duties.traffic() !== seenTraffic && performance.now() >= floorsDueAt) {
        seenTraffic = duties.traffic()
        const raised = await advanceFloors(duties.db, floorsEveryMs)
        if (raised === null) floorsDueAt = performance.now() + leftToOthersMs * (0.5 + Math.random() / 2)
        outage.recovered()
      }
      if (performance.now() - lookedAt >= duties.lookEveryMs && duties.sure()) {
        lookedAt = performance.now()
        silent = await standInForMonitor(duties, silent)
        outage.recovered()
      }
    } catch (error) {
      if (outage.failed() && !stop.aborted) {
        const facts = { event: 'duties.failed', message: (error as Error).message }
        duties.log.warn(facts, 'side duties failed; trying again')
      }
    }
    await sleep(outage.count > 0 ? retryDelayMs(outage.count, duties.maxRetryMs) : turnEveryMs, stop)
  }
}

async function standInForMonitor(duties: Duties, wasSilent: boolean): Promise<boolean> {
  const silenceMs = await monitorSilenceMs(duties.db)
  duties.silence(silenceMs)
  const silent = silenceMs === null || silenceMs > duties.monitorSilentAfterMs
  if (silent && !wasSilent) {
    const facts = { event: 'monitor.silent', silenceMs }
    duties.log.warn(
      facts,
      'no monitor looks after the workers; this runner releases dead ones itself, nobody is mailed',
    )
  }
  if (!silent) return false
  const dead = await releaseDeadWorkers(duties.db)
  for (const { workerId, slot, released, quarantined } of dead) {
    const facts = {
      event: 'worker.released',
      deadWorkerId: workerId,
      slot,
      released: released.length,
      quarantined: quarantined.length,
    }
    duties.log.warn(facts, 'a dead worker was released')
  }
  if (dead.length > 0) duties.released()
  return true
}
