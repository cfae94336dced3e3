/**
 * Lets one caller at a time through for each key: one request per host, so that no site sees a burst from us.
 *
 * Waiters go in order of arrival; keys that nobody waits for take no memory. It holds within one process only.
 */

/** A gate in use. `run` waits for its turn, then runs `work`; an abort while waiting gives the turn up. */
export type Gate = {
  run<T>(key: string, signal: AbortSignal, work: () => Promise<T>): Promise<T>
}

/** Makes a gate. */
export function createGate(): Gate {
  const tails = new Map<string, Promise<void>>()
  return {
    async run(key, signal, work) {
      const before = tails.get(key) ?? Promise.resolve()
      const { promise: done, resolve } = Promise.withResolvers<void>()
      const tail = before.then(() => done)
      tails.set(key, tail)
      try {
        await turn(before, signal)
        return await work()
      } finally {
        // Who gave up while waiting lets the next one pass only after its own predecessor is done: `tail` waits for both.
        resolve()
        if (tails.get(key) === tail) void tail.then(() => tails.get(key) === tail && tails.delete(key))
      }
    },
  }
}

async function turn(before: Promise<void>, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted()
  const { promise: aborted, reject } = Promise.withResolvers<never>()
  const onAbort = () => reject(signal.reason instanceof Error ? signal.reason : new Error('aborted'))
  signal.addEventListener('abort', onAbort, { once: true })
  try {
    await Promise.race([before, aborted])
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}
