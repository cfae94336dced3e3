/**
 * The reads of the queue: lists and health for people, dashboards and programs. They change nothing.
 */
export { type AlertRecord, type AlertState, type WaitingNews, listAlerts, listWaitingNews } from './alerts.ts'
export { type StatusCounts, countByStatus } from './counts.ts'
export {
  type HealthCheck,
  type InvariantViolation,
  type OpenIncident,
  type RecentFailure,
  type RoleState,
  databaseClock,
  databaseHealth,
  invariantViolations,
  listRoles,
  openIncidents,
  recentFailures,
} from './health.ts'
export { mayRead, onSnapshot } from './query.ts'
export {
  type RunStageProgress,
  type RunSummary,
  type RunTask,
  listRunTasks,
  listRuns,
  runProgress,
} from './runs.ts'
export {
  type FiringRecord,
  type ScheduleHealth,
  type ScheduleStatus,
  type SchedulerHealth,
  firingOf,
  listFirings,
  listSchedulers,
  listSchedules,
} from './schedules.ts'
export { serverMajor, settingsAdvice } from './settings.ts'
export { type StageHealth, type StageStatus, listStages } from './stages.ts'
export {
  type AttemptRecord,
  type TaskFilter,
  type TaskPayload,
  type TaskSummary,
  isWalk,
  listAttempts,
  listTasks,
  longestWalk,
  readPayload,
} from './tasks.ts'
export { type WorkerVersion, checkWorkerVersions, listWorkerVersions } from './versions.ts'
export {
  type ActiveLease,
  type DeadWorkerRecord,
  type WorkerHealth,
  type WorkerStatus,
  listDeadWorkers,
  listLeases,
  listWorkers,
} from './workers.ts'
