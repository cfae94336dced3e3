/**
 * Floors move while tasks do: a fallback beside the runners, which move them too.
 *
 * Invariant: an idle queue costs one read of a sequence every five seconds, no transaction id and no write. What floors
 * are is explained in migrations/0007_floors.sql.
 */
import { retryDelayMs, sleep } from '@leasehold/postgres'
import { type Db, advanceFloors } from '@leasehold/queue'
import type { Contact } from './contact.ts'
import { floorSigns } from './verbs.ts'

const busyMs = 1_000
const quietMs = 5_000
/** Turns without a new position before it counts as quiet: a submitter that is waited for has been passed by then. */
const turnsUntilQuiet = 6

/** Runs until `stop` aborts; never rejects. */
export async function keepFloors(db: Db, contact: Contact, stop: AbortSignal): Promise<void> {
  let position = ''
  let quietTurns = 0
  while (!stop.aborted) {
    try {
      const signs = await floorSigns(db)
      quietTurns = signs.position === position && signs.stragglers === 0 ? quietTurns + 1 : 0
      position = signs.position
      if (quietTurns < turnsUntilQuiet) await advanceFloors(db, busyMs)
      contact.reached()
      await sleep(quietTurns < turnsUntilQuiet ? busyMs : quietMs, stop)
    } catch (error) {
      contact.failed('floors', error)
      await sleep(retryDelayMs(contact.failures), stop)
    }
  }
}
