/**
 * Waiting between tries to reach the database: doubling, capped, jittered, and silent apart from a line now and then.
 *
 * Shared by every loop of every daemon, so that an outage is one shape everywhere: no exit, no flood, back within the cap.
 */

/** The delay before try `n` (1, 2, …): 100 ms doubling to `mostMs`, the upper half jittered. */
export function retryDelayMs(n: number, mostMs = 5000): number {
  return Math.min(mostMs, 100 * 2 ** Math.min(n - 1, 20)) * (0.5 + Math.random() / 2)
}

/** Says whether a failure is worth a line: at most one in ten seconds, also when outages follow one another closely. */
export class OutageLog {
  private failures = 0
  private spokeAt = -Infinity

  /** Counts a failure; true when it should be logged. */
  failed(): boolean {
    this.failures += 1
    const now = performance.now()
    if (now - this.spokeAt < 10_000) return false
    this.spokeAt = now
    return true
  }

  /** Ends the outage; returns how many failures it had, 0 when there was none. */
  recovered(): number {
    const had = this.failures
    this.failures = 0
    return had
  }

  get count(): number {
    return this.failures
  }
}

/** Resolves after `ms`, or at once when the signal aborts. Never rejects. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve()
    const done = () => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, ms)
    signal?.addEventListener('abort', done, { once: true })
  })
}
