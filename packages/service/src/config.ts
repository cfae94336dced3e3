/**
 * Configuration: read once, from one environment, all problems reported together.
 *
 * Invariant: whoever holds a `Config` holds values that are complete, in bounds and fit one another; times are in
 * milliseconds. Nothing else in Leasehold looks at an environment. Forms and defaults are in settings.ts.
 */
import { ConfigError, type ConfigProblem, nearName } from '@leasehold/queue'
import { readFileSync } from 'node:fs'
import { BlockList, isIPv6 } from 'node:net'
import { join, resolve } from 'node:path'
import { type Settings, parseSettings, secretNames, settingNames } from './settings.ts'

/** An environment: names to values, as `process.env`. */
export type Environment = Readonly<Record<string, string | undefined>>

/** Which program reads; it decides which settings must be there, not which are checked. */
export type ConfigReader = 'cli' | 'runner' | 'monitor' | 'scheduler' | 'control'

export interface SmtpConfig {
  readonly host: string
  readonly port: number
  /** Null when the server takes mail without a login. */
  readonly login: { readonly user: string; readonly password: string } | null
  readonly from: string
}

/** What every process is configured by. Null means "not set". */
export interface Config {
  /** With LEASEHOLD_POOLER the address says so: `?pooler=transaction`. */
  readonly database: { readonly url: string | null; readonly dataDir: string | null }
  readonly log: { readonly level: Settings['LEASEHOLD_LOG_LEVEL'] }
  readonly lease: {
    readonly ttlMs: number
    readonly beatIntervalMs: number
    /** While tasks run; as often when it is not set. */
    readonly workingBeatIntervalMs: number
    readonly wedgeLimitMs: number
  }
  readonly runner: {
    readonly concurrency: number | null
    readonly pollMs: number
    readonly retryMs: number
    readonly drainTimeoutMs: number
    readonly slot: string | null
    readonly runFilter: string | null
    readonly agent: string | null
  }
  readonly scheduler: { readonly pollMs: number }
  readonly monitor: { readonly intervalMs: number; readonly alertEmails: readonly string[] }
  readonly smtp: SmtpConfig | null
  /** The other channels of alerts, and who is told that a monitor looks. */
  readonly alerts: {
    readonly telegram: { readonly token: string; readonly chatId: string; readonly baseUrl: string } | null
    readonly webhook: { readonly url: string; readonly secret: string | null } | null
    /** Program and arguments. */
    readonly command: readonly string[] | null
    readonly pingUrl: string | null
  }
  readonly model: {
    readonly apiKey: string | null
    readonly baseUrl: string | null
    readonly name: string | null
  }
  /** The control service: where it listens, and the token it demands; null: none. */
  readonly control: {
    readonly host: string
    readonly port: number
    readonly token: string | null
    readonly triggerSecret: string | null
  }
}

/**
 * Reads and checks the whole configuration.
 *
 * Secrets may also be files named like the setting in $CREDENTIALS_DIRECTORY (systemd's LoadCredential); a file wins
 * over a variable. An empty value counts as not set. Throws {@link ConfigError} with every problem at once.
 */
export function readConfig(environment: Environment, reader: ConfigReader): Config {
  const problems: ConfigProblem[] = []
  const values = { ...present(environment), ...readCredentials(environment, problems) }
  problems.push(...unknownNames(environment))
  const parsed = parseSettings(values)
  problems.push(...parsed.problems)
  problems.push(...misfits(parsed.settings, reader, new Set(parsed.problems.map(({ name }) => name))))
  if (problems.length > 0) throw new ConfigError(dedupe(problems))
  return shape(parsed.settings)
}

function present(environment: Environment): Record<string, string> {
  const values: Record<string, string> = {}
  for (const name of settingNames) {
    const value = environment[name]?.trim()
    if (value !== undefined && value !== '') values[name] = value
  }
  return values
}

function readCredentials(environment: Environment, problems: ConfigProblem[]): Record<string, string> {
  const folder = environment['CREDENTIALS_DIRECTORY']
  const values: Record<string, string> = {}
  if (folder === undefined || folder === '') return values
  for (const name of secretNames) {
    try {
      const value = readFileSync(join(folder, name), 'utf8').trim()
      if (value !== '') values[name] = value
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'ENOENT') continue
      problems.push({ name, problem: 'its file in $CREDENTIALS_DIRECTORY cannot be read' })
    }
  }
  return values
}

/**
 * A misspelt name would silently leave the default in force. LEASEHOLD_TEST_ belongs to the test suite, LEASEHOLD_TASK_ to
 * the task whose program calls us.
 */
function unknownNames(environment: Environment): ConfigProblem[] {
  const names = Object.keys(environment).filter((name) => name.startsWith('LEASEHOLD_'))
  const unknown = names.filter(
    (name) => !settingNames.includes(name) && !/^LEASEHOLD_(TEST|TASK)_/.test(name),
  )
  return unknown.sort().map((name) => {
    const near = nearName(name, settingNames)
    return {
      name,
      problem: near ? `is not a setting; did you mean ${near}?` : 'is not a setting; remove it',
    }
  })
}

/** Values that are right by themselves and wrong together; of those that are `wrong` by themselves nothing is said. */
function misfits(s: Settings, reader: ConfigReader, wrong: ReadonlySet<string>): ConfigProblem[] {
  const problems: ConfigProblem[] = []
  const refuse = (name: keyof Settings, problem: string): void => {
    const named = settingNames.filter((one) => one === name || problem.includes(one))
    if (!named.some((one) => wrong.has(one))) problems.push({ name, problem })
  }
  const ttl = s.LEASEHOLD_LEASE_TTL_MS
  const beat = s.LEASEHOLD_BEAT_INTERVAL_MS
  // Two beats may get lost before a lease does.
  if (beat * 3 > ttl)
    refuse(
      'LEASEHOLD_BEAT_INTERVAL_MS',
      `is ${beat} ms, more than a third of LEASEHOLD_LEASE_TTL_MS (${ttl} ms)`,
    )
  const working = s.LEASEHOLD_WORKING_BEAT_INTERVAL_MS
  if (working !== undefined && working > beat)
    refuse(
      'LEASEHOLD_WORKING_BEAT_INTERVAL_MS',
      `is ${working} ms, more than LEASEHOLD_BEAT_INTERVAL_MS (${beat} ms): who works beats more often, not less`,
    )
  if (s.LEASEHOLD_POLL_MS >= ttl)
    refuse('LEASEHOLD_POLL_MS', `is ${s.LEASEHOLD_POLL_MS} ms, not below LEASEHOLD_LEASE_TTL_MS (${ttl} ms)`)
  if (s.LEASEHOLD_POOLER !== undefined && s.DATABASE_URL === undefined)
    refuse('DATABASE_URL', 'is missing although LEASEHOLD_POOLER is set: it is the address of the pooler')
  const pooler = /[?&]pooler=([^&]*)/.exec(s.DATABASE_URL ?? '')?.[1]
  if (pooler !== undefined && pooler !== 'transaction')
    refuse(
      'DATABASE_URL',
      `asks for pooler=${pooler}; only pooler=transaction is known, leave it out otherwise`,
    )
  // Who sends no alerts is given the settings, which are everybody's, without their secrets.
  if (reader === 'monitor' || reader === 'cli') halfChannels(s, refuse)
  if (reader === 'monitor') {
    const wants = s.HEARTBEAT_MONITOR_ALERT_EMAIL !== undefined
    if (wants && s.SMTP_HOST === undefined)
      refuse('SMTP_HOST', 'is missing: HEARTBEAT_MONITOR_ALERT_EMAIL asks for mail')
    if (!wants && s.SMTP_HOST !== undefined)
      refuse('HEARTBEAT_MONITOR_ALERT_EMAIL', 'is missing although SMTP_HOST is set')
  }
  const { LEASEHOLD_CONTROL_HOST: host } = s
  if (reader === 'control' && s.LEASEHOLD_METRICS_TOKEN === undefined && !isLoopback(host))
    refuse(
      'LEASEHOLD_METRICS_TOKEN',
      `is missing although LEASEHOLD_CONTROL_HOST is ${host}, which others can reach; \`openssl rand -hex 32\` makes one`,
    )
  return problems
}

const loopback = new BlockList()
loopback.addSubnet('127.0.0.0', 8, 'ipv4')
loopback.addAddress('::1', 'ipv6')

/** Whether only this machine can reach an IP address. */
function isLoopback(address: string): boolean {
  return loopback.check(address, isIPv6(address) ? 'ipv6' : 'ipv4')
}

/** What sends alerts, said by half. */
function halfChannels(s: Settings, refuse: (name: keyof Settings, problem: string) => void): void {
  if ((s.SMTP_USER === undefined) !== (s.SMTP_PASSWORD === undefined)) {
    const [missing, given] =
      s.SMTP_USER === undefined
        ? (['SMTP_USER', 'SMTP_PASSWORD'] as const)
        : (['SMTP_PASSWORD', 'SMTP_USER'] as const)
    refuse(missing, `is missing although ${given} is set; set both or neither`)
  }
  if (s.SMTP_HOST !== undefined && s.EMAIL_FROM === undefined)
    refuse('EMAIL_FROM', 'is missing although SMTP_HOST is set')
  needsOther(s, refuse, 'TELEGRAM_BOT_TOKEN', 'TELEGRAM_CHAT_ID')
  needsOther(s, refuse, 'TELEGRAM_CHAT_ID', 'TELEGRAM_BOT_TOKEN')
  needsOther(s, refuse, 'LEASEHOLD_WEBHOOK_SECRET', 'LEASEHOLD_WEBHOOK_URL')
}

function needsOther(
  s: Settings,
  refuse: (name: keyof Settings, problem: string) => void,
  given: keyof Settings,
  other: keyof Settings,
): void {
  if (s[given] !== undefined && s[other] === undefined) refuse(other, `is missing although ${given} is set`)
}

function dedupe(problems: readonly ConfigProblem[]): ConfigProblem[] {
  return [...new Map(problems.map((p) => [`${p.name}\n${p.problem}`, p])).values()]
}

function shape(s: Settings): Config {
  return {
    database: {
      url: shapeAddress(s),
      dataDir: s.LEASEHOLD_DATA_DIR === undefined ? null : resolve(s.LEASEHOLD_DATA_DIR),
    },
    log: { level: s.LEASEHOLD_LOG_LEVEL },
    lease: {
      ttlMs: s.LEASEHOLD_LEASE_TTL_MS,
      beatIntervalMs: s.LEASEHOLD_BEAT_INTERVAL_MS,
      workingBeatIntervalMs: s.LEASEHOLD_WORKING_BEAT_INTERVAL_MS ?? s.LEASEHOLD_BEAT_INTERVAL_MS,
      wedgeLimitMs: s.LEASEHOLD_WEDGE_LIMIT_MS,
    },
    runner: {
      concurrency: s.LEASEHOLD_CONCURRENCY ?? null,
      pollMs: s.LEASEHOLD_POLL_MS,
      retryMs: s.LEASEHOLD_RETRY_MS,
      drainTimeoutMs: s.LEASEHOLD_DRAIN_TIMEOUT_MS,
      slot: s.SLOT_ID ?? null,
      runFilter: s.RUN_FILTER_ID ?? null,
      agent: s.AGENT_ID ?? null,
    },
    scheduler: { pollMs: s.LEASEHOLD_SCHEDULER_POLL_MS },
    monitor: {
      intervalMs: s.HEARTBEAT_MONITOR_INTERVAL * 1_000,
      alertEmails: s.HEARTBEAT_MONITOR_ALERT_EMAIL ?? [],
    },
    smtp: shapeSmtp(s),
    alerts: shapeAlerts(s),
    model: {
      apiKey: s.ANTHROPIC_API_KEY ?? null,
      baseUrl: s.ANTHROPIC_BASE_URL ?? null,
      name: s.LEASEHOLD_MODEL ?? null,
    },
    control: {
      host: s.LEASEHOLD_CONTROL_HOST,
      port: s.LEASEHOLD_CONTROL_PORT,
      token: s.LEASEHOLD_METRICS_TOKEN ?? null,
      triggerSecret: s.TRIGGER_SECRET ?? null,
    },
  }
}

/** A word about the pooler goes into the address, so that every connection hears of it. */
function shapeAddress({ DATABASE_URL: url, LEASEHOLD_POOLER: pooler }: Settings): string | null {
  if (url === undefined || pooler === undefined || /[?&]pooler=/.test(url)) return url ?? null
  return `${url}${url.includes('?') ? '&' : '?'}pooler=${pooler}`
}

function shapeSmtp(s: Settings): SmtpConfig | null {
  if (s.SMTP_HOST === undefined || s.EMAIL_FROM === undefined) return null
  const login =
    s.SMTP_USER === undefined || s.SMTP_PASSWORD === undefined
      ? null
      : { user: s.SMTP_USER, password: s.SMTP_PASSWORD }
  return { host: s.SMTP_HOST, port: s.SMTP_PORT, login, from: s.EMAIL_FROM }
}

function shapeAlerts(s: Settings): Config['alerts'] {
  const { TELEGRAM_BOT_TOKEN: token, TELEGRAM_CHAT_ID: chatId, LEASEHOLD_WEBHOOK_URL: url } = s
  return {
    telegram:
      token === undefined || chatId === undefined
        ? null
        : { token, chatId, baseUrl: s.LEASEHOLD_TELEGRAM_URL },
    webhook: url === undefined ? null : { url, secret: s.LEASEHOLD_WEBHOOK_SECRET ?? null },
    command: s.LEASEHOLD_ALERT_COMMAND ?? null,
    pingUrl: s.LEASEHOLD_PING_URL ?? null,
  }
}
