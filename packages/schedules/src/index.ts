/**
 * Schedules: which moments a cron expression or an interval names, in a time zone, across its clock changes.
 *
 * Pure: no database, no clock of its own. Firing is the scheduler's (daemons/scheduler), in one transaction.
 */
export { countFirings, firingsBetween, lastFiring, nextFirings, remarkOn } from './firings.ts'
export { type CatchUp, type Plan, type PlanInput, missedAfterMs, planFirings } from './plan.ts'
export { type Timing, type TimingInput, longestIntervalMs, parseTiming } from './timing.ts'
export { localTime } from './zone.ts'
