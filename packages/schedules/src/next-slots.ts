/**
 * Computing when schedules fire next, as soon as they have been edited.
 *
 * The schedulers do the same at their next look. Where timers fire instead, nobody else would before the next firing, and
 * a slot that passes unfired in between could not be told from none. What was computed already is left alone.
 */
import { type Db, type ScheduleFacts, advanceSchedules, scheduleFacts } from '@leasehold/queue'
import { planOf } from './from-database.ts'

/**
 * Gives schedules that are switched on their next slot where they have none; fires nothing. Names that do not exist, and
 * schedules that another session holds, are passed over: that session's edit, or the next firing, computes it. A timing
 * that cannot be computed becomes the schedule's problem. Needs READ COMMITTED.
 */
export async function computeNextSlots(db: Db, names: readonly string[]): Promise<void> {
  const found: { readonly facts: ScheduleFacts; readonly now: number }[] = []
  for (const name of names) {
    const one = await scheduleFacts(db, name)
    if (one !== null && one.facts.enabled && one.facts.next_slot === null) found.push(one)
  }
  if (found.length === 0) return
  const plans = found.map(({ facts, now }) => planOf(facts, now))
  await advanceSchedules(db, plans, 'command')
}
