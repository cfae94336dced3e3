/**
 * `leasehold alerts`: the outbox, the policy and its changes, refused where they cannot work; and a test that is sent.
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { AlertPolicy, AlertRecord, WaitingNews } from '@leasehold/queue'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { leasehold, leaseholdJson } from './leasehold.ts'

let db: TestDatabase
let env: Record<string, string>
beforeAll(async () => {
  db = await createTestDatabase()
  env = { DATABASE_URL: db.url }
})
afterAll(() => db.drop())

test('the policy is shown, changed by its commands, and a change that changes nothing says so', async () => {
  expect((await leasehold(['alerts', 'policy'], env)).stdout).toMatch(/messages a day +2 for each channel/)
  for (const args of [
    ['set', '--per-day', '3', '--zone', 'Europe/London', '--quiet', '22:00-07:00', '--gap', '2min'],
    [
      'rule',
      'worker_dead',
      '--min-age',
      '1min',
      '--remind-after',
      '1d',
      '--channels',
      'email,telegram',
      '--no-recovery',
    ],
    ['channel', 'webhook', '--per-day', '50', '--off'],
    ['backlog', 'verify', '2h'],
  ]) {
    const { code, stderr } = await leasehold(['alerts', ...args], env)
    expect([code, stderr]).toEqual([0, ''])
  }
  const policy = await leaseholdJson<AlertPolicy>(['alerts', 'policy'], env)
  expect(policy).toMatchObject({
    perDay: 3,
    zone: 'Europe/London',
    quiet: { from: '22:00', until: '07:00' },
    gapMs: 120_000,
    backlogMs: { verify: 7_200_000 },
    channels: { webhook: { enabled: false, perDay: 50 } },
  })
  expect(policy.rules['worker_dead']).toMatchObject({
    minAgeMs: 60_000,
    remindAfterMs: 86_400_000,
    channels: ['email', 'telegram'],
    recovery: false,
  })
  expect((await leasehold(['alerts', 'set', '--per-day', '3'], env)).code).toBe(4)
  const { stdout } = await leasehold(['alerts', 'rules'], env)
  expect(stdout).toMatch(/^worker_dead +now +1 min +1 d +email,telegram +no +no$/m)
})

test.each([
  [['set', '--zone', 'Mars/Base'], /Mars\/Base/],
  [['set', '--quiet', 'at night'], /22:00-07:00/],
  [['set', '--quiet', '07:00-09:00'], /digest_is_not_in_quiet_hours/],
  [['set', '--per-day', '0'], /from 1 to 1000/],
  [['set', '--digest-at', '8 o’clock'], /08:00/],
  [['set'], /nothing to change/],
  [['rule', 'worker_died', '--tell', 'now'], /worker_dead/],
  [['rule', 'worker_dead', '--tell', 'loud'], /now, digest, never/],
  [['rule', 'worker_dead', '--channels', 'pigeon'], /email, telegram, webhook, command/],
  [['rule', 'worker_dead', '--remind-after', '1s'], /remindAfterMs/],
  [['channel', 'fax', '--on'], /telegram/],
  [['channel', 'email', '--on', '--off'], /exclude/],
  [['backlog', 'No Stage', '1h'], /no name of a stage/],
  [['list', '--channel', 'fax'], /telegram/],
])('alerts %j is refused as wrong usage, with what would be right', async (args, said) => {
  const { code, stderr } = await leasehold(['alerts', ...args], env)
  expect(stderr).toMatch(said)
  expect(code).toBe(2)
})

test('the outbox is listed with tries and errors, and with what waits', async () => {
  await db.pool.query(`insert into leasehold.alerts (incident_ids, subject, body, tries, last_error)
    values ('{}', 'Leasehold: 1 worker died', E'DEAD\\nline', 3, 'connect ECONNREFUSED')`)
  await db.pool.query(`select leasehold.open_incident('tasks_failing', 's', 'x'), leasehold.gather_news()`)
  const { stdout } = await leasehold(['alerts'], env)
  expect(stdout).toMatch(/email +failing +\S+ \S+ +3 +Leasehold: 1 worker died +connect ECONNREFUSED/)
  expect(stdout).toContain('email: 1 to be told since')
  expect((await leasehold(['alerts', 'list', '--full'], env)).stdout).toContain('    line')
  const listed = await leaseholdJson<{ messages: AlertRecord[]; waiting: WaitingNews[] }>(
    ['alerts', 'list', '--unsent'],
    env,
  )
  expect(listed.messages).toMatchObject([{ state: 'failing', channel: 'email', tries: 3 }])
  expect(listed.waiting).toMatchObject([{ channel: 'email', tell: 'digest', count: 1 }])
})

test('a test that was taken is no recovery of a channel that fails the monitor, and says so', async () => {
  await db.pool.query(`update leasehold.alert_channels
    set failing_since = leasehold.clock(), failures = 3, last_error = 'Invalid login' where channel = 'command'`)
  const channels = { ...env, LEASEHOLD_ALERT_COMMAND: '["/bin/cat"]' }
  const { code, stdout } = await leasehold(['alerts', 'test', '--channel', 'command'], channels)
  expect([code, stdout]).toEqual([0, expect.stringMatching(/command +taken/)])
  expect(stdout).toMatch(/The monitor itself has failed at command since .*: Invalid login\./)
  const [result] = await leaseholdJson<unknown[]>(['alerts', 'test', '--channel', 'command'], channels)
  expect(result).toMatchObject({
    ok: true,
    monitorFailsSince: expect.any(String),
    monitorError: 'Invalid login',
  })
  const { rows } = await db.pool.query(
    `select failures, last_sent_at from leasehold.alert_channels where failing_since is not null`,
  )
  expect(rows).toEqual([{ failures: 3, last_sent_at: null }])
  await db.pool.query('update leasehold.alert_channels set failing_since = null, failures = 0')
})

test('a test goes out for real, and what was not taken fails the command', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'leasehold-alerts-'))
  try {
    const channels = {
      ...env,
      LEASEHOLD_ALERT_COMMAND: JSON.stringify(['/bin/sh', '-c', 'cat > "$0"', join(folder, 'test.json')]),
      LEASEHOLD_WEBHOOK_URL: 'http://127.0.0.1:1/canary-path',
    }
    const taken = await leasehold(['alerts', 'test', '--channel', 'command'], channels)
    expect([taken.code, taken.stdout]).toEqual([0, expect.stringMatching(/command +taken/)])
    const sent = JSON.parse(await readFile(join(folder, 'test.json'), 'utf8')) as { subject: string }
    expect(sent.subject).toContain('Leasehold: test alert from')

    const all = await leasehold(['alerts', 'test'], channels)
    expect(all.code).toBe(1)
    expect(all.stdout).toMatch(/webhook +NOT TAKEN +\S+ ms +no connection: ECONNREFUSED/)
    expect(all.stdout + all.stderr).not.toContain('canary')
    const { stdout } = await leasehold(['alerts', 'policy'], env)
    expect(stdout).toMatch(/webhook .*no connection: ECONNREFUSED/)

    const none = await leasehold(['alerts', 'test', '--channel', 'telegram'], channels)
    expect(none.code).toBe(2)
    expect(none.stderr).toContain('TELEGRAM_BOT_TOKEN')
  } finally {
    await rm(folder, { recursive: true })
  }
})
