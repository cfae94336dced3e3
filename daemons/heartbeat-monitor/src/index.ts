/**
 * The heartbeat monitor's public face: starting one, and what a look of it finds.
 *
 * Daemons are not imported by one another; tests and main.ts import from here.
 */
export type { Channel } from './channels/channel.ts'
export { type ChannelSettings, openChannels } from './channels/open.ts'
export { channelSettings } from './channels/settings.ts'
export { type TestResult, sendTest } from './channels/test-delivery.ts'
export type { Log } from './log.ts'
export type { Look } from './look.ts'
export type { MailSettings } from './mailer.ts'
export { type Monitor, type MonitorOptions, startMonitor } from './monitor.ts'
export type { RetryPace } from './outbox.ts'
export type { Incident, IncidentKind, IncidentOf } from './verbs.ts'
