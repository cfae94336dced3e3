/**
 * Waiting for something, but not for ever: how a stop stays bounded when a database or a mail server hangs.
 *
 * Invariant: the limit's timer never outlives the wait, so that nothing keeps a process which has nothing left to do.
 */
import { sleep } from './outage.ts'

/**
 * Resolves when `wait` settles, well or not, when `ms` have passed or when the signal aborts, whatever comes first.
 * Never rejects. What is late goes on unwatched.
 */
export async function within(ms: number, wait: Promise<unknown>, signal?: AbortSignal): Promise<void> {
  const over = new AbortController()
  const limit = sleep(ms, signal === undefined ? over.signal : AbortSignal.any([over.signal, signal]))
  await Promise.race([wait.catch(() => {}), limit])
  over.abort()
}
