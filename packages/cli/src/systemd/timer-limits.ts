/**
 * What a systemd timer does otherwise than the scheduler, for one schedule: the scheduler is the exact one.
 *
 * A timer knows no jitter of ours, fires no time that the clocks skip, and fires a time that they show twice only once. What
 * it misses is dealt with by the catch-up policy when it fires next.
 */
import type { ManifestSchedule } from '@leasehold/manifest'
import { firingsBetween, localTime, parseTiming, remarkOn, type Timing } from '@leasehold/schedules'
import { duration } from '../terminal/time.ts'
import { toCalendar } from './calendar.ts'

const dayMs = 86_400_000
/** Every clock change that comes once a year lies ahead once. */
const daysAhead = 400
/** More firings than a schedule has in the three days around a clock change, but for intervals. */
const mostFirings = 5_000

/** In words for people, beginning with the schedule's name; none: a timer fires it exactly. */
export function timerLimits(schedule: ManifestSchedule, now: Date): string[] {
  const calendar = toCalendar(schedule)
  const said =
    'problem' in calendar
      ? [`${calendar.problem}: no timer can fire it`]
      : [...jitterLimit(schedule), ...clockLimits(parseTiming(schedule), now)]
  return said.map((limit) => `schedule ${schedule.name}: ${limit}`)
}

function jitterLimit({ jitterMs }: ManifestSchedule): string[] {
  return jitterMs === 0 ? [] : [`a timer fires it without its jitter of ${duration(jitterMs)}`]
}

/** The first firing of each kind that a timer misses because clocks are changed. */
function clockLimits(timing: Timing, now: Date): string[] {
  if (timing.kind === 'interval') return []
  const { zone } = timing
  const found = new Map<'skipped' | 'second', string>()
  for (let day = 1; day <= daysAhead; day += 1) {
    const at = new Date(now.getTime() + day * dayMs)
    if (offset(zone, at) === offset(zone, new Date(at.getTime() - dayMs))) continue
    const from = new Date(at.getTime() - 2 * dayMs)
    const to = new Date(at.getTime() + dayMs)
    for (const firing of firingsBetween(timing, from, to, mostFirings)) {
      const remark = remarkOn(timing, firing) ?? ''
      const kind = remark.includes('is skipped')
        ? 'skipped'
        : remark.startsWith('the second')
          ? 'second'
          : null
      if (kind === null || found.has(kind)) continue
      found.set(kind, `a timer misses its firing at ${localTime(zone, firing)} (${remark})`)
    }
  }
  return [...found.values()]
}

/** The end of a local time: `+01:00`. */
function offset(zone: string, at: Date): string {
  return localTime(zone, at).slice(-6)
}
