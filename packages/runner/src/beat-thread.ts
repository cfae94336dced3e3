/**
 * The heartbeat thread of a process: beats on connections of its own, whatever the main thread is busy with. All workers of
 * the process share the thread, and nothing else: each has a port and a connection, so that beats which hang, or a
 * connection that is dead without saying so, are one worker's trouble.
 *
 * A thread that beats for ever would hide a main loop that stands still; so when the loop has not turned for
 * `wedgeLimitMs`, beats go on without renewing: the worker is seen as wedged and its leases run out.
 * Reconnects for ever.
 */
import { type MessagePort, parentPort } from 'node:worker_threads'
import { OutageLog, openPool, retryDelayMs, sleep } from '@leasehold/postgres/connections'
import { type BeatAnswer, heartbeat } from '@leasehold/queue/heartbeat'
import { SharedState, type SharedMemory } from './shared-state.ts'

/** What a worker's beats are started with. */
export interface BeatData {
  readonly memory: SharedMemory
  readonly connectionString: string
  readonly workerId: string
  readonly slot: string
  readonly beatIntervalMs: number
  /** While tasks run. */
  readonly workingBeatIntervalMs: number
  /** The longest pause between tries while nothing runs. */
  readonly maxRetryMs: number
  readonly leaseTtlMs: number
  readonly wedgeLimitMs: number
}

/** A worker for this thread; the port hears 'now' for a beat right away and 'stop' for the end, which closes it. */
export interface NewHeart {
  readonly data: BeatData
  readonly port: MessagePort
}

/** What it tells the main thread. */
export type BeatMessage =
  | { type: 'answer'; answer: BeatAnswer }
  | { type: 'failed'; message: string }
  | { type: 'recovered'; failures: number }
  | { type: 'wedged'; loopAgeMs: number }

async function beat({ data, port }: NewHeart): Promise<void> {
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
  let ended = false
  port.on('message', (order: 'now' | 'stop') => {
    ended ||= order === 'stop'
    now.abort()
  })
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread's port, no window
  const say = (message: BeatMessage): void => port.postMessage(message)
  let wedged = false
  const regular: Pause = { idleMs: data.beatIntervalMs, workingMs: data.workingBeatIntervalMs }
  let pause = regular
  for (;;) {
    await untilDue(pause, state, now.signal)
    if (ended) break
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
      pause = renew ? regular : shorter(regular, 1000)
    } catch (error) {
      if (outage.failed()) {
        outageSaid = true
        say({ type: 'failed', message: (error as Error).message })
      }
      const mostMs = state.running > 0 ? undefined : data.maxRetryMs
      pause = shorter(regular, retryDelayMs(outage.count, mostMs))
    }
  }
  await pool.end()
  port.close()
}

/** How long until the next beat, while nothing runs and while something does. */
interface Pause {
  readonly idleMs: number
  readonly workingMs: number
}

function shorter({ idleMs, workingMs }: Pause, mostMs: number): Pause {
  return { idleMs: Math.min(idleMs, mostMs), workingMs: Math.min(workingMs, mostMs) }
}

async function untilDue(
  { idleMs, workingMs }: Pause,
  state: SharedState,
  beatNow: AbortSignal,
): Promise<void> {
  const since = performance.now()
  for (;;) {
    const leftMs = since + (state.running > 0 ? workingMs : idleMs) - performance.now()
    if (beatNow.aborted || leftMs <= 0) return
    await sleep(Math.min(leftMs, workingMs), beatNow) // what began meanwhile makes the pause shorter
  }
}

parentPort?.on('message', (heart: NewHeart) => void beat(heart))
