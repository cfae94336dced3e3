/**
 * Every setting there is: its name in the environment, its form, its unit, its bounds and its default.
 *
 * Invariant: a name that begins with LEASEHOLD_ and is not in this file is an error. Messages never repeat a secret.
 * Which settings need one another is said in config.ts, which also shapes the result.
 */
import type { ConfigProblem } from '@leasehold/queue'
import { isIP } from 'node:net'
import { z } from 'zod'

const text = z.string()

/** A whole number with its unit and bounds in the message. */
function whole(unit: string, min: number, max: number): z.ZodType<number> {
  const message = `must be a whole number of ${unit} from ${min} to ${max}`
  return z
    .string()
    .regex(/^\d{1,15}$/, message)
    .transform(Number)
    .refine((value) => value >= min && value <= max, message)
}

const milliseconds = (min: number, max: number): z.ZodType<number> => whole('milliseconds', min, max)

const databaseUrl = text.refine(
  (value) => /^postgres(ql)?:\/\/./.test(value) && !/\s/.test(value),
  'must look like postgres://user:password@host:5432/database (percent-encode special characters of the password)',
)

const email = z.email('must be an e-mail address')

const emails = text
  .transform((value) => value.split(',').map((one) => one.trim()))
  .pipe(z.array(z.email('must be one e-mail address or several with commas between')).min(1))

/** `Name <a@b.example>` or a plain address; no line may be broken inside, because it becomes a mail header. */
const sender = text.refine((value) => {
  const address = /^[^<>\p{Cc}]*<([^<>\s]+)>$/u.exec(value)?.[1] ?? value
  return email.safeParse(address).success
}, 'must be an e-mail address, or a name and an address: Leasehold <alerts@shop.example>')

const webAddress = z.url({ protocol: /^https?$/, error: 'must be an http or https address' })

/** Who knows such an address can read or forge what goes there; messages never show it. */
const secretAddress = z.url({ protocol: /^https?$/, error: 'must be an http or https address' })

/** A token in an address must not travel in clear text, but for a server on this machine. */
const botApi = webAddress.refine(
  (value) =>
    value.startsWith('https:') || /^http:\/\/(localhost|127(\.\d{1,3}){3}|\[::1\])([:/]|$)/.test(value),
  'must be an https address',
)

const ipAddress = text.refine(
  (value) => isIP(value) !== 0,
  'must be an IP address: 127.0.0.1 (this machine only), 0.0.0.0 or :: (every network), or one of this machine',
)

const argv = text.transform((value, context): readonly string[] => {
  try {
    const list: unknown = JSON.parse(value)
    if (Array.isArray(list) && list.length > 0 && list.every((one) => typeof one === 'string' && one !== ''))
      return list as string[]
  } catch {
    // told below
  }
  context.addIssue({
    code: 'custom',
    message: 'must be a JSON list of program and arguments: ["/usr/local/bin/page-me", "--urgent"]',
  })
  return z.NEVER
})

const name = (max: number): z.ZodType<string> =>
  text.max(max, `must have at most ${max} characters`).regex(/^[\p{L}\p{N}_.:@/-]+$/u, {
    error: 'must consist of letters, digits and . _ : @ / - only',
  })

/** What the values are once they were read. Names are the environment's; units are in the names or beside them. */
export interface Settings {
  readonly DATABASE_URL?: string | undefined
  readonly LEASEHOLD_POOLER?: 'transaction' | undefined
  readonly LEASEHOLD_DATA_DIR?: string | undefined
  readonly LEASEHOLD_LOG_LEVEL: 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'silent'
  readonly LEASEHOLD_LEASE_TTL_MS: number
  readonly LEASEHOLD_BEAT_INTERVAL_MS: number
  readonly LEASEHOLD_WORKING_BEAT_INTERVAL_MS?: number | undefined
  readonly LEASEHOLD_WEDGE_LIMIT_MS: number
  readonly LEASEHOLD_CONCURRENCY?: number | undefined
  readonly LEASEHOLD_POLL_MS: number
  readonly LEASEHOLD_RETRY_MS: number
  readonly LEASEHOLD_DRAIN_TIMEOUT_MS: number
  readonly SLOT_ID?: string | undefined
  readonly RUN_FILTER_ID?: string | undefined
  readonly AGENT_ID?: string | undefined
  readonly LEASEHOLD_SCHEDULER_POLL_MS: number
  /** Seconds. */
  readonly HEARTBEAT_MONITOR_INTERVAL: number
  readonly HEARTBEAT_MONITOR_ALERT_EMAIL?: readonly string[] | undefined
  readonly SMTP_HOST?: string | undefined
  readonly SMTP_PORT: number
  readonly SMTP_USER?: string | undefined
  readonly SMTP_PASSWORD?: string | undefined
  readonly EMAIL_FROM?: string | undefined
  readonly TELEGRAM_BOT_TOKEN?: string | undefined
  readonly TELEGRAM_CHAT_ID?: string | undefined
  readonly LEASEHOLD_TELEGRAM_URL: string
  readonly LEASEHOLD_WEBHOOK_URL?: string | undefined
  readonly LEASEHOLD_WEBHOOK_SECRET?: string | undefined
  readonly LEASEHOLD_ALERT_COMMAND?: readonly string[] | undefined
  readonly LEASEHOLD_PING_URL?: string | undefined
  readonly ANTHROPIC_API_KEY?: string | undefined
  readonly ANTHROPIC_BASE_URL?: string | undefined
  readonly LEASEHOLD_MODEL?: string | undefined
  readonly LEASEHOLD_CONTROL_HOST: string
  readonly LEASEHOLD_CONTROL_PORT: number
  readonly LEASEHOLD_METRICS_TOKEN?: string | undefined
  readonly TRIGGER_SECRET?: string | undefined
}

// An empty value counts as not set before it gets here.
const schema = z.object({
  DATABASE_URL: databaseUrl.optional(),
  LEASEHOLD_POOLER: z
    .literal('transaction', {
      error: 'must be transaction, or not set for a server or a pooler in session mode',
    })
    .optional(),
  LEASEHOLD_DATA_DIR: text.optional(),

  LEASEHOLD_LOG_LEVEL: z
    .enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'], {
      error: 'must be trace, debug, info, warn, error, fatal or silent',
    })
    .default('info'),

  LEASEHOLD_LEASE_TTL_MS: milliseconds(1_000, 3_600_000).default(90_000),
  LEASEHOLD_BEAT_INTERVAL_MS: milliseconds(50, 1_200_000).default(30_000),
  LEASEHOLD_WORKING_BEAT_INTERVAL_MS: milliseconds(50, 1_200_000).optional(),
  LEASEHOLD_WEDGE_LIMIT_MS: milliseconds(1_000, 86_400_000).default(60_000),

  LEASEHOLD_CONCURRENCY: whole('tasks', 1, 10_000).optional(),
  LEASEHOLD_POLL_MS: milliseconds(10, 60_000).default(2_000),
  LEASEHOLD_RETRY_MS: milliseconds(100, 300_000).default(5_000),
  LEASEHOLD_DRAIN_TIMEOUT_MS: milliseconds(0, 3_600_000).default(30_000),
  SLOT_ID: name(100).optional(),
  RUN_FILTER_ID: text.max(200, 'must have at most 200 characters').optional(),
  AGENT_ID: name(100).optional(),

  LEASEHOLD_SCHEDULER_POLL_MS: milliseconds(100, 30_000).default(5_000),

  HEARTBEAT_MONITOR_INTERVAL: whole('seconds', 1, 3_600).default(60),
  HEARTBEAT_MONITOR_ALERT_EMAIL: emails.optional(),

  SMTP_HOST: z
    .string()
    .regex(/^[\w.:-]+$/, 'must be a host name or an IP address')
    .optional(),
  SMTP_PORT: z
    .string()
    .regex(/^\d{1,5}$/, 'must be a port number from 1 to 65535')
    .transform(Number)
    .refine((port) => port >= 1 && port <= 65_535, 'must be a port number from 1 to 65535')
    .default(587),
  SMTP_USER: text.optional(),
  SMTP_PASSWORD: text.optional(),
  EMAIL_FROM: sender.optional(),

  TELEGRAM_BOT_TOKEN: text
    .regex(
      /^\d{1,20}:[\w-]{10,100}$/,
      'must look like the token that BotFather gave: digits, a colon, letters',
    )
    .optional(),
  TELEGRAM_CHAT_ID: text.regex(/^(-?\d{1,20}|@\w{1,64})$/, 'must be a number or @name').optional(),
  LEASEHOLD_TELEGRAM_URL: botApi.default('https://api.telegram.org'),
  LEASEHOLD_WEBHOOK_URL: secretAddress.optional(),
  LEASEHOLD_WEBHOOK_SECRET: text
    .min(16, 'must have at least 16 characters; `openssl rand -hex 32` makes one')
    .optional(),
  LEASEHOLD_ALERT_COMMAND: argv.optional(),
  LEASEHOLD_PING_URL: secretAddress.optional(),

  ANTHROPIC_API_KEY: text.regex(/^\S+$/, 'must not contain spaces').optional(),
  ANTHROPIC_BASE_URL: webAddress.optional(),
  LEASEHOLD_MODEL: name(100).optional(),

  LEASEHOLD_CONTROL_HOST: ipAddress.default('127.0.0.1'),
  LEASEHOLD_CONTROL_PORT: z
    .string()
    .regex(/^\d{1,5}$/, 'must be a port number from 1 to 65535, or 0 for any free one')
    .transform(Number)
    .refine((port) => port <= 65_535, 'must be a port number from 1 to 65535, or 0 for any free one')
    .default(7077),
  LEASEHOLD_METRICS_TOKEN: text
    .regex(
      /^[\w.~+/=-]{32,}$/,
      'must have at least 32 letters, digits and . _ ~ + / = -; `openssl rand -hex 32` makes one',
    )
    .optional(),

  TRIGGER_SECRET: text
    .min(32, 'must have at least 32 characters; `openssl rand -hex 32` makes one')
    .optional(),
})

/** All names, for the search of near ones. */
export const settingNames: readonly string[] = Object.keys(schema.shape)

/** Settings that may come as files in $CREDENTIALS_DIRECTORY, and whose values no message shows. */
export const secretNames: readonly (keyof Settings)[] = [
  'DATABASE_URL',
  'SMTP_PASSWORD',
  'TELEGRAM_BOT_TOKEN',
  'LEASEHOLD_WEBHOOK_URL',
  'LEASEHOLD_WEBHOOK_SECRET',
  'LEASEHOLD_PING_URL',
  'ANTHROPIC_API_KEY',
  'LEASEHOLD_METRICS_TOKEN',
  'TRIGGER_SECRET',
]

/**
 * Parses values by name. With problems, every one of every value; a setting that has one is at its default, so that the
 * others can still be held against one another.
 */
export function parseSettings(values: Readonly<Record<string, string>>): {
  readonly settings: Settings
  readonly problems: ConfigProblem[]
} {
  const parsed = schema.safeParse(values)
  if (parsed.success) return { settings: parsed.data, problems: [] }
  const problems = parsed.error.issues.map((issue) => ({
    name: String(issue.path[0]),
    problem: issue.message,
  }))
  const wrong = new Set(problems.map(({ name }) => name))
  const right = Object.entries(values).filter(([name]) => !wrong.has(name))
  return { settings: schema.parse(Object.fromEntries(right)), problems }
}
