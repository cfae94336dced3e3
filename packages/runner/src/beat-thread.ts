/**
 * The heartbeat thread: beats on a connection of its own, whatever the main thread is busy with.
 *
 * A thread that beats for ever would hide a main loop that stands still; so when the loop has not turned for
 * `wedgeLimitMs`, beats go on without renewing: the worker is seen as wedged and its leases run out.
 * Runs until the main thread ends it, which is the last thing a runner does. Reconnects for ever.
 */
import { parentPort, workerData } from 'node:worker_threads'
import { type BeatAnswer, heartbeat } from '@leasehold/queue'
import { OutageLog, openPool, retryDelayMs, sleep } from '@leasehold/postgres'
import { SharedState, type SharedMemory } from './shared-state.ts'

/** What the thread is started with. */
export interface BeatThreadData {
  readonly memory: SharedMemory
  readonly connectionString: string
  readonly workerId: string
  readonly slot: string
  readonly beatIntervalMs: number
  readonly leaseTtlMs: number
  readonly wedgeLimitMs: number
}

/** What it tells the main thread. */
export type BeatMessage =
  | { type: 'answer'; answer: BeatAnswer }
  | { type: 'failed'; message: string }
  | { type: 'recovered'; failures: number }
  | { type: 'wedged'; loopAgeMs: number }

function say(message: BeatMessage): void {
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread's port, no window
  parentPort!.postMessage(message)
}

async function beatForEver(data: BeatThreadData): Promise<void> {
  const state = new SharedState(data.memory)
  const timeoutMs = Math.max(1000, Math.round(data.leaseTtlMs / 4))
  const pool = openPool({
    connectionString: data.connectionString,
    applicationName: `leasehold beat ${data.slot}`,
    max: 1,
    connectTimeoutMs: timeoutMs,
    queryTimeoutMs: timeoutMs,
    idleTimeoutMs: 0,
  })
  const outage = new OutageLog()
  let outageSaid = false
  let now = new AbortController()
  parentPort!.on('message', () => now.abort()) // "beat now"
  let wedged = false
  let waitMs = data.beatIntervalMs
  for (;;) {
    await sleep(waitMs, now.signal)
    now = new AbortController()
    const loopAgeMs = state.loopAgeMs
    const renew = loopAgeMs < data.wedgeLimitMs
    if (!renew && !wedged) say({ type: 'wedged', loopAgeMs })
    wedged = !renew
    const sentAt = process.hrtime.bigint()
    try {
      const answer = await heartbeat(pool, {
        workerId: data.workerId,
        loopAgeMs,
        oldestFence: state.oldestFence.toString(),
        running: state.running,
        draining: state.draining,
        renew,
      })
      if (answer.state === 'live' && renew) state.acknowledge(sentAt)
      const failures = outage.recovered()
      if (outageSaid) say({ type: 'recovered', failures })
      outageSaid = false
      say({ type: 'answer', answer })
      // A loop that was only late is to lose nothing: as soon as it turns again, its leases are renewed.
      waitMs = renew ? data.beatIntervalMs : Math.min(data.beatIntervalMs, 1000)
    } catch (error) {
      if (outage.failed()) {
        outageSaid = true
        say({ type: 'failed', message: (error as Error).message })
      }
      waitMs = Math.min(data.beatIntervalMs, retryDelayMs(outage.count))
    }
  }
}

if (parentPort) void beatForEver(workerData as BeatThreadData)
