/**
 * The library's public face: whatever is not exported here is nobody's business.
 *
 * Other packages import from this file only, never past it.
 */
export {
  type AlertChannel,
  type AlertChannelInput,
  type AlertChannelState,
  type AlertPolicy,
  type AlertPolicyInput,
  type AlertRule,
  type AlertRuleInput,
  type AlertTelling,
  type IncidentKindName,
  alertChannels,
  alertPolicyProblems,
  incidentKinds,
  noteAlertTest,
  putAlertPolicy,
  readAlertPolicy,
  retryAlerts,
} from './alert-policy.ts'
export { cleanExact, cleanJson, cleanText, describeError } from './clean.ts'
export { type Db, type Tx, inTransaction } from './db.ts'
export { type Duration, toMs } from './duration.ts'
export * from './errors.ts'
export { parseExact, writeExact } from './exact-json.ts'
export { nearName } from './near.ts'
export {
  type Deeds,
  type Duty,
  type DutyName,
  type DutyRecord,
  crontabOf,
  duties,
  listHousekeeping,
  registerDuties,
  takeTurn,
} from './housekeeping.ts'
export { type RateLimit, type WholeRate, rateProblem, wholeRate } from './rate.ts'
export * from './reads/index.ts'
export * from './schedules.ts'
export {
  type PlannedRange,
  type Retention,
  type RetentionTurn,
  applyRetention,
  readRetention,
  retentionPlan,
  setRetention,
} from './retention.ts'
export {
  type Outcome,
  type Settled,
  type Stage,
  type StageDefinition,
  type StageSettings,
  type TaskContext,
  type TaskFacts,
  type TaskLog,
  defineStage,
  issuesOf,
  parsePayload,
} from './stage.ts'
export { type SubmitItem, type SubmitOptions, submit, submitMany, taskFields } from './submit.ts'
export {
  type Explanation,
  type LogLine,
  type TaskState,
  type TaskStatus,
  cancelTask,
  drainSlot,
  explainTask,
  getTask,
  pauseStage,
  resumeStage,
  retryTask,
  runNow,
  taskLogs,
  waitForResult,
} from './task.ts'
export { translate } from './translate.ts'
export { type Beat, type BeatAnswer, heartbeat } from './heartbeat.ts'
export * from './exchange.ts'
export * from './worker.ts'
