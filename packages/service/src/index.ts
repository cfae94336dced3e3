/**
 * The public face of @leasehold/service: what every process needs and no library may do.
 *
 * Configuration, log, signals, systemd. Other packages import from this file only.
 */
export { type Config, type ConfigReader, type Environment, type SmtpConfig, readConfig } from './config.ts'
export { type DaemonLife, type DaemonProgram, runDaemon } from './daemon.ts'
export { type Logger, type LoggerOptions, createLogger } from './log.ts'
export { type ShutdownHandlers, onShutdown, processExitCodes, runMain } from './process.ts'
export { secretNames, settingNames } from './settings.ts'
export { type Notifier, type Start, beginStart, notifier } from './systemd.ts'
export { Watchdog } from './watchdog.ts'
