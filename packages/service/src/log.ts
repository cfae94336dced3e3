/**
 * The log: one JSON line for each event, constant messages, facts as fields.
 *
 * Invariant: no line carries a password, token, secret, authorization header or the password inside an address, not even
 * within an error's text. Payloads are never logged; that is the caller's duty. Libraries do not log; main.ts does.
 */
import { type DestinationStream, type Logger, destination as openDestination, pino } from 'pino'

export type { Logger } from 'pino'

export interface LoggerOptions {
  readonly level: string
  /** The process's role: `runner`, `heartbeat-monitor`, … */
  readonly name: string
  /** Where lines go; default: standard output, written before the call returns, so that nothing is lost at an exit. */
  readonly destination?: DestinationStream
}

const secretFields = [
  'password',
  'token',
  'secret',
  'apiKey',
  'authorization',
  'connectionString',
  'databaseUrl',
]

// The password of an address, wherever it stands: in messages, in stack traces, in the `input` of a parse error.
const passwordInAddress = /([a-z][a-z0-9+.-]{2,20}:\/\/[^\s:/@"\\]{0,200}):[^\s@"\\]{1,500}@/gi

/** A pino logger that writes `{"level":"info","time":"…","name":…,"pid":…,…,"msg":…}`. */
export function createLogger(options: LoggerOptions): Logger {
  const anywhere = secretFields.flatMap((field) => [field, `*.${field}`, `*.*.${field}`])
  return pino(
    {
      level: options.level,
      base: { name: options.name, pid: process.pid },
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
      formatters: { level: (label) => ({ level: label }) },
      redact: { paths: anywhere, censor: '***' },
      hooks: { streamWrite: (line) => line.replace(passwordInAddress, '$1:***@') },
    },
    options.destination ?? openDestination({ dest: 1, sync: true }),
  )
}
