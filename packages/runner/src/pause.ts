/**
 * Waiting for long without looking like a loop that stands still.
 */
import { sleep } from '@leasehold/postgres'
import type { Settings } from './options.ts'

/** Steps shorter than what a watchdog and the views take for wedged, which is ten seconds at least. */
export function stepOf({ wedgeLimitMs }: Pick<Settings, 'wedgeLimitMs'>): number {
  return Math.min(wedgeLimitMs / 4, 5000)
}

/** Waits `ms` in steps, each followed by `turned`; ends early when the signal aborts or `over` holds after a step. */
export async function pauseInSteps(
  ms: number,
  {
    stepMs,
    stop,
    turned,
    over = () => false,
  }: { stepMs: number; stop: AbortSignal; turned: () => void; over?: () => boolean },
): Promise<void> {
  const until = performance.now() + ms
  for (let left = ms; left > 0 && !stop.aborted && !over(); left = until - performance.now()) {
    await sleep(Math.min(left, stepMs), stop)
    turned()
  }
}
