/**
 * From a schedule as the database tells it to the plan that is sent back.
 *
 * A timing that cannot be parsed or computed becomes a plan with a problem, for its schedule alone; nothing here throws
 * because of what somebody has written into a row. What is there is read as croner has it, also where it would be refused
 * as new (readTiming). Parsed timings are kept, by their text.
 */
import { ConfigError, type SchedulePlan, type ScheduleFacts } from '@leasehold/queue'
import { planFirings } from './plan.ts'
import { type Timing, readTiming } from './timing.ts'

const timings = new Map<string, Timing>()
const keptTimings = 5_000

/** The timing of a schedule. Throws ConfigError. */
export function timingOf(facts: Pick<ScheduleFacts, 'cron' | 'every_ms' | 'anchor' | 'zone'>): Timing {
  const text = JSON.stringify([facts.cron, facts.every_ms, facts.anchor, facts.zone])
  let timing = timings.get(text)
  if (timing === undefined) {
    const { cron, every_ms: everyMs, anchor, zone } = facts
    timing = readTiming({ cron, everyMs, zone, anchor: new Date(anchor) })
    if (timings.size >= keptTimings) timings.clear()
    timings.set(text, timing)
  }
  return timing
}

/** What is to become of a schedule at `nowMs`. */
export function planOf(facts: ScheduleFacts, nowMs: number): SchedulePlan {
  const { name, revision, next_slot: expected } = facts
  try {
    const pending = facts.anew || expected === null ? null : new Date(expected)
    const plan = planFirings({
      timing: timingOf(facts),
      catchUp: facts.catch_up,
      jitterMs: facts.jitter_ms,
      pending,
      since: new Date(facts.anew ? nowMs : facts.since),
      now: new Date(nowMs),
    })
    if (plan.next === null) throw new RangeError('its timing names no further moment')
    const { skip } = plan
    return {
      name,
      revision,
      expected,
      fire: plan.fire.map((slot) => slot.getTime()),
      ...(skip && {
        skip_first: skip.first.getTime(),
        skip_last: skip.last.getTime(),
        skip_count: skip.count,
      }),
      next: plan.next.getTime(),
    }
  } catch (error) {
    return { name, revision, expected, fire: [], next: expected, problem: wordsOf(error) }
  }
}

function wordsOf(error: unknown): string {
  if (error instanceof ConfigError)
    return error.problems.map(({ name, problem }) => `${name}: ${problem}`).join('; ')
  return error instanceof Error ? error.message : String(error)
}
