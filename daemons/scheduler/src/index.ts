/**
 * The scheduler's public face: starting one, and one turn of it.
 *
 * Daemons are not imported by one another; tests, the CLI and main.ts import from here.
 */
export { type Log, type Scheduler, type SchedulerOptions, startScheduler } from './scheduler.ts'
export { type Turn, type Unfired, tick } from './tick.ts'
