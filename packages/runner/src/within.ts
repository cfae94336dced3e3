/**
 * Waiting for something, but not for ever. The limit's timer never outlives the wait, so that nothing keeps a process
 * which has nothing left to do.
 */
import { sleep } from '@leasehold/postgres'

/** Resolves when `wait` settles, when `ms` have passed or when the signal aborts, whatever comes first. Never rejects. */
export async function within(ms: number, wait: Promise<unknown>, signal?: AbortSignal): Promise<void> {
  const over = new AbortController()
  const limit = sleep(ms, signal === undefined ? over.signal : AbortSignal.any([over.signal, signal]))
  await Promise.race([wait.catch(() => {}), limit])
  over.abort()
}
