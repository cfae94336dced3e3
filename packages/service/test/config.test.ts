/**
 * The configuration: defaults, every wrong value, what needs what, secrets that stay secret.
 */
import { ConfigError } from '@leasehold/queue'
import { type ConfigReader, type Environment, readConfig } from '@leasehold/service'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'

function problemsOf(environment: Environment, reader: ConfigReader = 'runner'): Record<string, string> {
  try {
    readConfig(environment, reader)
  } catch (error) {
    if (error instanceof ConfigError)
      return Object.fromEntries(error.problems.map((p) => [p.name, p.problem]))
    throw error
  }
  return {}
}

test('an empty environment gives the documented defaults', () => {
  expect(readConfig({}, 'runner')).toEqual({
    database: { url: null, dataDir: null },
    log: { level: 'info' },
    lease: { ttlMs: 90_000, beatIntervalMs: 30_000, workingBeatIntervalMs: 30_000, wedgeLimitMs: 60_000 },
    runner: {
      concurrency: null,
      pollMs: 2_000,
      retryMs: 5_000,
      drainTimeoutMs: 30_000,
      slot: null,
      runFilter: null,
      agent: null,
    },
    scheduler: { pollMs: 5_000 },
    monitor: { intervalMs: 60_000, alertEmails: [] },
    smtp: null,
    alerts: { telegram: null, webhook: null, command: null, pingUrl: null },
    model: { apiKey: null, baseUrl: null, name: null },
    control: { host: '127.0.0.1', port: 7077, token: null, triggerSecret: null },
  })
})

function pooled(DATABASE_URL: string): string | null {
  return readConfig({ DATABASE_URL, LEASEHOLD_POOLER: 'transaction' }, 'runner').database.url
}

test('a pooler goes into the address of the database, once', () => {
  expect(pooled('postgres://db.example/queue')).toBe('postgres://db.example/queue?pooler=transaction')
  expect(pooled('postgres://db.example/q?sslmode=require')).toMatch(/\?sslmode=require&pooler=transaction$/)
  expect(pooled('postgres://db.example/queue?pooler=transaction')).toMatch(/queue\?pooler=transaction$/)
  expect(problemsOf({ LEASEHOLD_POOLER: 'session' })['LEASEHOLD_POOLER']).toContain('must be transaction')
  expect(problemsOf({ LEASEHOLD_POOLER: 'transaction' })['DATABASE_URL']).toContain('is missing')
  expect(problemsOf({ DATABASE_URL: 'postgres://db.example/q?pooler=odd' })['DATABASE_URL']).toContain('odd')
})

test('values are parsed, trimmed and grouped; empty ones count as not set', () => {
  const config = readConfig(
    {
      DATABASE_URL: ' postgresql://worker@db.example/queue ',
      LEASEHOLD_CONCURRENCY: '',
      HEARTBEAT_MONITOR_INTERVAL: '5',
      HEARTBEAT_MONITOR_ALERT_EMAIL: 'ops@shop.example, boss@shop.example',
      SMTP_HOST: 'mail.shop.example',
      SMTP_PORT: '2525',
      SMTP_USER: 'u',
      SMTP_PASSWORD: 'p',
      EMAIL_FROM: 'Leasehold <alerts@shop.example>',
      SLOT_ID: 'company_research@2',
    },
    'monitor',
  )
  expect(config.database.url).toBe('postgresql://worker@db.example/queue')
  expect(config.runner).toMatchObject({ concurrency: null, slot: 'company_research@2' })
  expect(config.monitor).toEqual({
    intervalMs: 5_000,
    alertEmails: ['ops@shop.example', 'boss@shop.example'],
  })
  expect(config.smtp).toEqual({
    host: 'mail.shop.example',
    port: 2525,
    login: { user: 'u', password: 'p' },
    from: 'Leasehold <alerts@shop.example>',
  })
})

test('values that do not fit one another are reported beside a value that is wrong by itself', () => {
  const problems = problemsOf({
    LEASEHOLD_BEAT_INTERVAL_MS: '80000',
    SMTP_PORT: 'many',
    EMAIL_FROM: 'nobody',
  })
  expect(Object.keys(problems).sort()).toEqual(['EMAIL_FROM', 'LEASEHOLD_BEAT_INTERVAL_MS', 'SMTP_PORT'])
  // Of a value that cannot be read nothing more is said.
  const unread = problemsOf({
    LEASEHOLD_LEASE_TTL_MS: 'long',
    SMTP_HOST: 'mail.example',
    EMAIL_FROM: 'nobody',
  })
  expect(Object.keys(unread).sort()).toEqual(['EMAIL_FROM', 'LEASEHOLD_LEASE_TTL_MS'])
})

test('all problems are reported at once, each with its name and its bounds', () => {
  const problems = problemsOf({
    DATABASE_URL: 'mysql://root:hunter2@db.example/x',
    LEASEHOLD_LEASE_TTL_MS: '9s',
    LEASEHOLD_POLL_MS: '-5',
    LEASEHOLD_LOG_LEVEL: 'loud',
    HEARTBEAT_MONITOR_INTERVAL: '0',
    HEARTBEAT_MONITOR_ALERT_EMAIL: 'ops',
    SMTP_PORT: '70000',
    EMAIL_FROM: 'Leasehold\r\nBcc: x@y.example <a@b.example>',
    LEASEHOLD_CONTROL_HOST: 'localhost',
    LEASEHOLD_CONTROL_PORT: '65536',
    LEASEHOLD_METRICS_TOKEN: 'short',
    TRIGGER_SECRET: 'short',
  })
  expect(Object.keys(problems).sort()).toEqual([
    'DATABASE_URL',
    'EMAIL_FROM',
    'HEARTBEAT_MONITOR_ALERT_EMAIL',
    'HEARTBEAT_MONITOR_INTERVAL',
    'LEASEHOLD_CONTROL_HOST',
    'LEASEHOLD_CONTROL_PORT',
    'LEASEHOLD_LEASE_TTL_MS',
    'LEASEHOLD_LOG_LEVEL',
    'LEASEHOLD_METRICS_TOKEN',
    'LEASEHOLD_POLL_MS',
    'SMTP_PORT',
    'TRIGGER_SECRET',
  ])
  expect(problems['LEASEHOLD_LEASE_TTL_MS']).toBe(
    'must be a whole number of milliseconds from 1000 to 3600000',
  )
})

test('an unknown LEASEHOLD_ name is refused and its near one is named', () => {
  const problems = problemsOf({
    LEASEHOLD_LEASE_TTL: '5',
    LEASEHOLD_XYZZY: '1',
    LEASEHOLD_TEST_PG: '14',
    OTHER: '1',
  })
  expect(problems).toEqual({
    LEASEHOLD_LEASE_TTL: 'is not a setting; did you mean LEASEHOLD_LEASE_TTL_MS?',
    LEASEHOLD_XYZZY: 'is not a setting; remove it',
  })
})

test.each<[string, Environment, ConfigReader, string[]]>([
  [
    'a beat above a third of the lease',
    { LEASEHOLD_LEASE_TTL_MS: '60000' },
    'runner',
    ['LEASEHOLD_BEAT_INTERVAL_MS'],
  ],
  [
    'a poll as long as the lease',
    { LEASEHOLD_LEASE_TTL_MS: '1500', LEASEHOLD_BEAT_INTERVAL_MS: '500' },
    'runner',
    ['LEASEHOLD_POLL_MS'],
  ],
  [
    'a working worker that beats less often than an idle one',
    { LEASEHOLD_WORKING_BEAT_INTERVAL_MS: '45000' },
    'runner',
    ['LEASEHOLD_WORKING_BEAT_INTERVAL_MS'],
  ],
  ['a user without a password', { SMTP_USER: 'u' }, 'monitor', ['SMTP_PASSWORD']],
  ['a mail server without a sender', { SMTP_HOST: 'mail.example' }, 'cli', ['EMAIL_FROM']],
  [
    'alerts without a mail server',
    { HEARTBEAT_MONITOR_ALERT_EMAIL: 'a@b.example' },
    'monitor',
    ['SMTP_HOST'],
  ],
  [
    'a mail server without a recipient',
    { SMTP_HOST: 'mail.example', EMAIL_FROM: 'a@b.example' },
    'monitor',
    ['HEARTBEAT_MONITOR_ALERT_EMAIL'],
  ],
  ['a bot without a chat', { TELEGRAM_BOT_TOKEN: '1:made-up-token' }, 'cli', ['TELEGRAM_CHAT_ID']],
  ['a chat without a bot', { TELEGRAM_CHAT_ID: '-1001' }, 'cli', ['TELEGRAM_BOT_TOKEN']],
  [
    'a token in clear text on its way to another machine',
    { LEASEHOLD_TELEGRAM_URL: 'http://bots.example' },
    'cli',
    ['LEASEHOLD_TELEGRAM_URL'],
  ],
  [
    'a signature without anywhere to send it',
    { LEASEHOLD_WEBHOOK_SECRET: 'made up for this test' },
    'cli',
    ['LEASEHOLD_WEBHOOK_URL'],
  ],
  [
    'a command for a shell',
    { LEASEHOLD_ALERT_COMMAND: 'page-me --urgent' },
    'cli',
    ['LEASEHOLD_ALERT_COMMAND'],
  ],
  ['a command of nothing', { LEASEHOLD_ALERT_COMMAND: '[]' }, 'cli', ['LEASEHOLD_ALERT_COMMAND']],
  ['a ping to a file', { LEASEHOLD_PING_URL: 'file:///etc/passwd' }, 'cli', ['LEASEHOLD_PING_URL']],
  ['a port for everybody without a token', { LEASEHOLD_CONTROL_HOST: '::' }, 'control', ['LEASEHOLD_METRICS_TOKEN']], // prettier-ignore
  ['an address of the network without a token', { LEASEHOLD_CONTROL_HOST: '192.0.2.1' }, 'control', ['LEASEHOLD_METRICS_TOKEN']], // prettier-ignore
])('refuses %s', (_what, environment, reader, names) => {
  expect(Object.keys(problemsOf(environment, reader))).toEqual(names)
})

test('on loopback, in every notation, the control service needs no token, and nobody else ever does', () => {
  for (const host of ['127.0.0.1', '127.1.2.3', '::1', '0:0:0:0:0:0:0:1', '::ffff:127.0.0.1'])
    expect(readConfig({ LEASEHOLD_CONTROL_HOST: host, LEASEHOLD_CONTROL_PORT: '0' }, 'control').control).toMatchObject({ host, port: 0, token: null }) // prettier-ignore
  expect(problemsOf({ LEASEHOLD_CONTROL_HOST: '0.0.0.0' }, 'runner')).toEqual({})
  const LEASEHOLD_METRICS_TOKEN = 'made-up-token-of-thirty-two-signs'
  expect(readConfig({ LEASEHOLD_CONTROL_HOST: '::', LEASEHOLD_METRICS_TOKEN }, 'control').control).toMatchObject({ host: '::', token: LEASEHOLD_METRICS_TOKEN }) // prettier-ignore
})

test.each<ConfigReader>(['runner', 'scheduler'])(
  'a %s is given the settings of alerts without their secrets, and minds neither',
  (reader) => {
    const settings = { SMTP_HOST: 'mail.example', SMTP_USER: 'u', TELEGRAM_CHAT_ID: '-1001' }
    expect(() => readConfig({ DATABASE_URL: 'postgres://db.example/x', ...settings }, reader)).not.toThrow()
  },
)

test('the other channels of alerts are grouped, and a command is a list of arguments', () => {
  const config = readConfig(
    {
      TELEGRAM_BOT_TOKEN: '1:made-up-token',
      TELEGRAM_CHAT_ID: '@ops',
      LEASEHOLD_TELEGRAM_URL: 'http://127.0.0.1:8081',
      LEASEHOLD_WEBHOOK_URL: 'https://hooks.example/x',
      LEASEHOLD_ALERT_COMMAND: '["/bin/page", "a b"]',
      LEASEHOLD_PING_URL: 'https://ping.example/uuid',
    },
    'cli',
  )
  expect(config.alerts).toEqual({
    telegram: { token: '1:made-up-token', chatId: '@ops', baseUrl: 'http://127.0.0.1:8081' },
    webhook: { url: 'https://hooks.example/x', secret: null },
    command: ['/bin/page', 'a b'],
    pingUrl: 'https://ping.example/uuid',
  })
})

test('what only the monitor needs does not stop a command', () => {
  expect(problemsOf({ HEARTBEAT_MONITOR_ALERT_EMAIL: 'a@b.example' }, 'cli')).toEqual({})
})

test('no message repeats a secret', () => {
  const secret = 'hunter2 hunter2'
  let text = ''
  try {
    readConfig(
      {
        DATABASE_URL: `x://${secret}`,
        ANTHROPIC_API_KEY: secret,
        TRIGGER_SECRET: secret,
        LEASEHOLD_METRICS_TOKEN: secret,
        TELEGRAM_BOT_TOKEN: secret,
        LEASEHOLD_WEBHOOK_URL: secret,
        LEASEHOLD_PING_URL: secret,
      },
      'control',
    )
  } catch (error) {
    text = `${String(error)} ${JSON.stringify(error)}`
  }
  expect(text).toContain('ANTHROPIC_API_KEY')
  expect(text).not.toContain('hunter2')
})

test('a credential file wins over the variable, and one that cannot be read is a problem', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'leasehold-credentials-'))
  await writeFile(join(folder, 'DATABASE_URL'), 'postgres://file.example/x\n')
  const environment = { CREDENTIALS_DIRECTORY: folder, DATABASE_URL: 'postgres://variable.example/x' }
  expect(readConfig(environment, 'cli').database.url).toBe('postgres://file.example/x')
  await rm(join(folder, 'DATABASE_URL'))
  expect(readConfig(environment, 'cli').database.url).toBe('postgres://variable.example/x')
  expect(problemsOf({ CREDENTIALS_DIRECTORY: join(folder, 'DATABASE_URL', 'x') })).toEqual({})
  await writeFile(join(folder, 'plain'), '')
  expect(Object.keys(problemsOf({ CREDENTIALS_DIRECTORY: join(folder, 'plain') })).sort()).toEqual([
    'ANTHROPIC_API_KEY',
    'DATABASE_URL',
    'LEASEHOLD_METRICS_TOKEN',
    'LEASEHOLD_PING_URL',
    'LEASEHOLD_WEBHOOK_SECRET',
    'LEASEHOLD_WEBHOOK_URL',
    'SMTP_PASSWORD',
    'TELEGRAM_BOT_TOKEN',
    'TRIGGER_SECRET',
  ])
  await rm(folder, { recursive: true })
})
