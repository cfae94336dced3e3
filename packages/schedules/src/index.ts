/**
 * Schedules: which moments a cron expression or an interval names, in a time zone, across its clock changes.
 *
 * Pure but for fire.ts and next-slots.ts: no database, no clock of its own. The scheduler (daemons/scheduler) carries plans out.
 */
export { type FiringAnswer, type WhichSlot, fireSchedule } from './fire.ts'
export { countFirings, firingsBetween, lastFiring, nextFirings, remarkOn } from './firings.ts'
export { planOf, timingOf } from './from-database.ts'
export { computeNextSlots } from './next-slots.ts'
export { type CatchUp, type Plan, type PlanInput, missedAfterMs, planFirings } from './plan.ts'
export { type Timing, type TimingInput, longestIntervalMs, parseTiming, readTiming } from './timing.ts'
export { localTime } from './zone.ts'
