/**
 * The manifest: one typed file that declares a whole installation: what runs, how often, and who is told.
 *
 * Other packages import from this file only, never past it.
 */
export type { AlertRuleInput, AlertsInput } from './alerts.ts'
export {
  type EnvironmentInput,
  type ManifestInput,
  type ScheduleInput,
  type StageInput,
  type WorkerInput,
  defineManifest,
} from './input.ts'
export type {
  Manifest,
  ManifestAlerts,
  ManifestCommand,
  ManifestSchedule,
  ManifestService,
  ManifestWorker,
} from './manifest.ts'
export { readManifest, withLines } from './read.ts'
