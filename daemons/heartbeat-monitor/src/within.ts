/**
 * Waiting for something, but not for ever: how a stop stays bounded when a database or a mail server hangs.
 *
 * Invariant: no timer is left behind, which would keep the process alive. Work that is late goes on unwatched.
 */
import { sleep } from '@leasehold/postgres'

/** Resolves when `work` has ended, well or not, or after `ms`. Never rejects. */
export async function within(ms: number, work: Promise<unknown>): Promise<void> {
  const ended = new AbortController()
  await Promise.race([work.catch(() => {}), sleep(ms, ended.signal)])
  ended.abort()
}
