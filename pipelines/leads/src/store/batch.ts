/**
 * Turns what many handlers ask for one by one into one statement for all of them.
 *
 * While one statement is under way the next one's items collect, so that waiting is never added and batches grow with the load: alone, a
 * handler's item goes at once. Why: a commit waits for the disk; a thousand companies a second must not wait a thousand times.
 * An item that the database refuses fails alone: the batch is then done again item by item. What is written must bear being written twice.
 */
import type { Db } from '@leasehold/queue'

/** Items of one statement at most. */
const MAX_ITEMS = 500

type Waiting<I, O> = {
  readonly db: Db
  readonly item: I
  readonly resolve: (value: O) => void
  readonly reject: (error: unknown) => void
}

/** Makes a function that hands single items to `work` in batches. `work` answers for each item, in order. */
export function createBatch<I, O>(
  work: (db: Db, items: readonly I[]) => Promise<readonly O[]>,
): (db: Db, item: I) => Promise<O> {
  let waiting: Waiting<I, O>[] = []
  let running = false
  const turn = async (): Promise<void> => {
    while (waiting.length > 0) {
      const batch = waiting.splice(0, MAX_ITEMS)
      await settle(work, batch)
    }
    running = false
  }
  return (db, item) => {
    const { promise, resolve, reject } = Promise.withResolvers<O>()
    waiting.push({ db, item, resolve, reject })
    if (!running) {
      running = true
      // After all handlers that are ready now have asked.
      setImmediate(() => void turn())
    }
    return promise
  }
}

async function settle<I, O>(
  work: (db: Db, items: readonly I[]) => Promise<readonly O[]>,
  batch: readonly Waiting<I, O>[],
): Promise<void> {
  const [first] = batch
  if (first === undefined) return
  try {
    const answers = await work(
      first.db,
      batch.map(({ item }) => item),
    )
    for (const [index, { resolve, reject }] of batch.entries()) {
      const answer = answers[index]
      if (index < answers.length) resolve(answer as O)
      else reject(new Error('a batch gave fewer answers than it had items'))
    }
  } catch (error) {
    if (batch.length === 1) first.reject(error)
    else for (const one of batch) await settle(work, [one])
  }
}
