/**
 * The heartbeat monitor's public face: starting one, and what a look of it finds.
 *
 * Daemons are not imported by one another; tests and main.ts import from here.
 */
export type { Log } from './log.ts'
export type { Look } from './look.ts'
export type { MailSettings } from './mailer.ts'
export { type Monitor, type MonitorOptions, startMonitor } from './monitor.ts'
export type { RetryPace } from './outbox.ts'
export type { Incident, IncidentKind, IncidentOf } from './verbs.ts'
