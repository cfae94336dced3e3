/**
 * The public face of @leasehold/runner: start a runner, drain it, and what can go wrong.
 *
 * Other packages import from this file only.
 */
export { AttemptAborted } from './execution.ts'
export type { RunnerLog, RunnerOptions } from './options.ts'
export { type Runner, type RunnerCounts, SlotTakenError, startRunner } from './runner.ts'
