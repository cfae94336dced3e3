/**
 * Firing one schedule by hand, or from a systemd timer: the same plan and the same guard as the schedulers'.
 *
 * Invariant: however many timers, people and schedulers fire a slot, it has one task. A timer goes by its machine's clock
 * and slots by the database's: who comes a little before the slot waits for it. What talks to a database in this package
 * is this file and next-slots.ts.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import {
  type Db,
  type FiringRecord,
  type RecordedFiring,
  type ScheduleFacts,
  ScheduleBusyError,
  ValueRefusedError,
  advanceSchedules,
  firingOf,
  scheduleFacts,
} from '@leasehold/queue'
import { firingsBetween, lastFiring, nextFirings } from './firings.ts'
import { planOf, timingOf } from './from-database.ts'

/** Which slot: the one that is due now (the latest that has passed), a certain one, or none: one task more. */
export type WhichSlot = 'now' | 'extra' | Date

export interface FiringAnswer {
  /** Fired or skipped by this call; `before`: it had been fired or skipped already. */
  readonly result: 'fired' | 'skipped' | 'before'
  readonly slot: Date
  readonly reason: string | null
  readonly taskId: string | null
}

/** Slots older than this are no longer told apart from those that were fired and forgotten. */
const oldestMs = 30 * 86_400_000
/** Refusals in a row; each means that another session was at the same schedule. */
const tries = 20
/** A clock that is further behind than this is not waited for. */
const longestWaitMs = 60_000

/**
 * Fires one slot of a schedule, enabled or not. For `now` the schedule is brought up to the present as a scheduler would
 * do it: slots that were missed follow the catch-up policy, and the jitter is not waited for. When nothing is open and
 * the next slot is nearer than the last one, and less than a minute ahead, that one is meant and waited for; `waiting`
 * hears of it, once or more. Null: no such schedule.
 *
 * Throws ConfigError when its timing cannot be computed, {@link ValueRefusedError} for a moment that is no slot, lies
 * ahead, or lies more than 30 days back, and {@link ScheduleBusyError} when another session held the schedule for some 5 s.
 */
export async function fireSchedule(
  db: Db,
  name: string,
  which: WhichSlot = 'now',
  waiting: (slot: Date, waitMs: number) => void = () => {},
): Promise<FiringAnswer | null> {
  let chosen: Date | null = null
  let waitedMs = 0
  for (let refused = 0; refused < tries;) {
    const found = await scheduleFacts(db, name)
    if (found === null) return null
    const { facts, now } = found
    const ahead = which === 'now' && chosen === null ? await slotAhead(db, facts, now) : null
    if (ahead !== null && waitedMs < longestWaitMs) {
      const waitMs = ahead.getTime() - now
      waiting(ahead, waitMs)
      waitedMs += waitMs
      await sleep(waitMs)
      continue
    }
    const slot = (chosen ??= chooseSlot(facts, which, now))
    const atPresent = which !== 'now' || !facts.enabled || (facts.next_slot ?? 0) > slot.getTime()
    const earlier = atPresent && which !== 'extra' ? await firingOf(db, name, slot) : null
    if (earlier !== null) return answerOf('before', slot, earlier)
    const plan = atPresent ? onlyThis(facts, slot, which) : planOf({ ...facts, jitter_ms: 0 }, now)
    if (plan.problem !== undefined) {
      timingOf(facts)
      throw refusal(`'${name}' cannot be fired: ${plan.problem}`)
    }
    const [carried] = await advanceSchedules(db, [plan], 'command')
    const record = carried?.recorded.find((one) => covers(one, slot))
    if (record !== undefined) return answerOf(record.outcome, slot, record)
    // Two that ask for one more in the same millisecond ask for the same one: the later one takes another.
    const taken = which === 'extra' && carried !== undefined
    if (taken) chosen = null
    if (taken || carried === undefined) {
      refused += 1
      await sleep(25 * refused)
    }
  }
  throw new ScheduleBusyError(name)
}

/**
 * The slot that is about to come, when it is the one that is meant; null when there is one to deal with already, or none
 * within reach. Nearer than the last one, so that of a slot every minute the one that has just passed is not confused
 * with the next.
 */
async function slotAhead(db: Db, facts: ScheduleFacts, nowMs: number): Promise<Date | null> {
  if (!facts.enabled) return null
  const timing = timingOf(facts)
  const now = new Date(nowMs)
  const [next] = nextFirings(timing, now, 1)
  if (next === undefined) return null
  const aheadMs = next.getTime() - nowMs
  const last = lastFiring(timing, now)
  if (aheadMs > longestWaitMs || (last !== null && aheadMs > nowMs - last.getTime())) return null
  const open =
    last !== null && last.getTime() > facts.since && (await firingOf(db, facts.name, last)) === null
  return open ? null : next
}

function chooseSlot(facts: ScheduleFacts, which: WhichSlot, nowMs: number): Date {
  const now = new Date(nowMs)
  if (which === 'extra') return now
  const timing = timingOf(facts)
  if (which === 'now') {
    const latest = lastFiring(timing, now)
    if (latest !== null && latest.getTime() >= nowMs - oldestMs) return latest
    const [next] = nextFirings(timing, now, 1)
    throw refusal(`'${facts.name}' had no slot in the last 30 days; its next one is ${next?.toISOString()}`)
  }
  if (which > now) throw refusal(`${which.toISOString()} lies ahead, and slots fire when they are due`)
  if (which.getTime() < nowMs - oldestMs) throw refusal(`${which.toISOString()} is more than 30 days ago`)
  const isSlot = firingsBetween(timing, new Date(which.getTime() - 1), which, 1).length === 1
  if (isSlot) return which
  const around = [lastFiring(timing, which), nextFirings(timing, which, 1)[0]]
  const near = around.map((slot) => slot?.toISOString() ?? 'none').join(' and ')
  throw refusal(`${which.toISOString()} is no slot of '${facts.name}'; those around it are ${near}`)
}

function refusal(message: string): ValueRefusedError {
  return new ValueRefusedError('22023', null, message)
}

/** Fires this slot and touches no other; the schedule moves on only when this is the one it waits for. */
function onlyThis(facts: ScheduleFacts, slot: Date, which: WhichSlot): ReturnType<typeof planOf> {
  const { name, revision, next_slot: expected } = facts
  const fire = [slot.getTime()]
  if (which === 'extra') return { name, revision, expected, fire, next: expected, extra: true }
  const isNext = expected === slot.getTime()
  const next = isNext ? (nextFirings(timingOf(facts), slot, 1)[0]?.getTime() ?? null) : expected
  return { name, revision, expected, fire, next }
}

function covers(one: RecordedFiring, slot: Date): boolean {
  const at = slot.getTime()
  return Date.parse(one.slot) === at || (Date.parse(one.slot) < at && Date.parse(one.last_slot ?? '') >= at)
}

function answerOf(
  result: FiringAnswer['result'],
  slot: Date,
  record: RecordedFiring | FiringRecord,
): FiringAnswer {
  const taskId = 'taskId' in record ? record.taskId : (record.task_id ?? null)
  return { result, slot, reason: record.reason, taskId }
}
