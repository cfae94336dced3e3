/**
 * What must not go wrong between an incident and a person: channels that nobody serves, words that fail, recoveries that
 * are none, and two sessions that need the same rows. Tries that nobody answered are doubts.test.ts.
 */
import { putAlertPolicy, registerDuties } from '@leasehold/queue'
import { beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { MailServer } from './mail-server.ts'
import { handOver, tellings } from './telling.ts'
import { alerts, watch } from './watching.ts'

const minute = 60_000

let db: TestDatabase
let mail: MailServer
beforeEach(async ({ onTestFinished }) => {
  db = await createTestDatabase()
  mail = await new MailServer().start()
  onTestFinished(async () => {
    await mail.stop()
    await db.drop()
  })
})

async function open(kind: string, subject: string): Promise<void> {
  await db.pool.query('select leasehold.open_incident($1, $2, $3)', [kind, subject, `${subject} is wrong`])
}

async function openIncidents(kind: string): Promise<string[]> {
  const { rows } = await db.pool.query<{ subject: string }>(
    'select subject from leasehold.open_incidents where kind = $1 order by subject',
    [kind],
  )
  return rows.map(({ subject }) => subject)
}

/** A look without its telling. */
async function look(): Promise<void> {
  await db.pool.query(
    `select leasehold.monitor_beat('00000000-0000-4000-8000-000000000001', 'crane.example', 1, '1', 60000)`,
  )
  await db.pool.query(`select leasehold.monitor_tick('1 minute', '1 minute')`)
}

async function claim(): Promise<string | undefined> {
  const { rows } = await db.pool.query<{ transmission: string }>(
    `select transmission from leasehold.claim_messages('email', '1 minute')`,
  )
  return rows[0]?.transmission
}

/** Until so many sessions wait for a lock. */
async function lockWaits(n: number): Promise<void> {
  await expect
    .poll(async () => {
      const { rows } = await db.pool.query<{ n: number }>(
        `select count(*)::integer as n from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`,
      )
      return rows[0]!.n
    })
    .toBe(n)
}

test('a message for a channel that no monitor serves any more is an incident after five minutes', async () => {
  await look()
  await open('backlog_old', 'a')
  await tellings(db, { channels: ['telegram'], held: true })
  for (let minutes = 0; minutes < 8; minutes++) {
    expect(await openIncidents('channel_down'), `after ${minutes} min`).toEqual(
      minutes < 5 ? [] : ['telegram'],
    )
    await db.advance(minute)
    await look()
  }
  await tellings(db, { channels: ['email'], held: true })
  const told = await tellings(db, { channels: ['email'], held: true })
  expect(told.flatMap(({ subjects }) => subjects)).not.toContain('email')
  await db.pool.query(`select leasehold.set_alert_channel('telegram', '{"enabled": false}')`)
  await look()
  expect(await openIncidents('channel_down')).toEqual([])
})

test('a channel that is switched off and a rule that says never hold back what was written before', async () => {
  await putAlertPolicy(db.pool, { perDay: 10, gapMs: 0 })
  await open('backlog_old', 'a')
  await tellings(db, { held: true })
  await db.pool.query(`select leasehold.set_alert_channel('email', '{"enabled": false}')`)
  expect(await claim()).toBeUndefined()
  await db.pool.query(`select leasehold.set_alert_channel('email', '{"enabled": true}')`)
  await db.pool.query(`select leasehold.set_alert_rule('backlog_old', '{"tell": "never"}')`)
  await open('monitor_silent', 'b')
  await tellings(db, { held: true })
  expect(await handOver(db.pool, ['email'])).toBe(1)
  expect(await alerts(db)).toMatchObject([
    { sent: false, last_error: 'the rules say never since it was written' },
    { sent: true },
  ])
  const { rows } = await db.pool.query(
    `select name, value from leasehold.database_health where name like '%alerts' order by name`,
  )
  expect(rows).toEqual([
    { name: 'refused alerts', value: '1' },
    { name: 'unsent alerts', value: '0' },
  ])
})

test('a claim waits for its channel and counts its minute from then', async () => {
  await open('backlog_old', 'a')
  await tellings(db, { held: true })
  const other = await db.client()
  await other.query('begin')
  await other.query(`select from leasehold.alert_channels where channel = 'email' for update`)
  const claiming = claim()
  await lockWaits(1)
  await db.advance(10 * minute)
  await other.query('commit')
  await claiming
  const { rows } = await db.pool.query<{ ahead: boolean }>(
    'select claimed_until > leasehold.clock() as ahead from leasehold.alerts',
  )
  expect(rows).toEqual([{ ahead: true }])
})

test('a sender whose try fails and a look that finds its channel do not wait for each other', async () => {
  await putAlertPolicy(db.pool, { perDay: 10, gapMs: 0 })
  await look()
  await open('backlog_old', 'a')
  await tellings(db, { held: true })
  const transmission = await claim()
  await db.pool.query(`update leasehold.alert_channels set failing_since = leasehold.clock(), failures = 2`)
  const [looking, sending] = [await db.client(), await db.client()]
  await looking.query('begin')
  await sending.query('begin')
  await sending.query(`select leasehold.messages_failed('email', $1, 'gone', '1 second')`, [transmission])
  await looking.query(`select leasehold.open_incident('channel_down', 'email', 'x')`)
  const reading = looking.query(`select * from leasehold.due_messages('1 minute')`)
  await sending.query('commit')
  await reading
  await looking.query('commit')
  await look()
  expect(await openIncidents('channel_down')).toEqual(['email'])
})

test('a look and somebody who asks for what was refused take channels in the same order', async () => {
  const [asking, looking] = [await db.client(), await db.client()]
  await asking.query('begin')
  // The first by its name, although it lies behind the others.
  await asking.query(`select from leasehold.alert_channels where channel = 'command' for update`)
  await looking.query('begin')
  const serving = looking.query(`select leasehold.serve_channels('{webhook,telegram,email,command}')`)
  await lockWaits(1)
  await asking.query('select leasehold.retry_alerts()')
  await asking.query('commit')
  await serving
  await looking.query(`select * from leasehold.due_messages('1 minute')`)
  await looking.query('commit')
  const { rows } = await db.pool.query('select from leasehold.alert_channels where served_at is not null')
  expect(rows).toHaveLength(4)
})

test('words that fail hold up nobody: that message is told without them, the others as always', async () => {
  await putAlertPolicy(db.pool, { perDay: 10, gapMs: 0 })
  const monitor = await watch(db, mail, { policy: 'as it is' })
  await open('backlog_old', 'a')
  // The words for it are refused, as they would be if they could not be found.
  await db.pool.query(`alter table leasehold.alerts add constraint made_up check (body not like '%BACKLOG%')`)
  const found = await monitor.tick()
  expect(found).toMatchObject({ untold: null })
  expect(found.alertIds).toHaveLength(1)
  const { subject, text = '' } = await mail.mail(1)
  expect(subject).toBe('Leasehold: 1 incident that could not be put into words')
  expect(text).toMatch(/open: backlog_old a \(incident \d+\)/)
  expect(text).toContain('made_up')
  expect(monitor.lines.named('telling.without_words')).toHaveLength(1)
})

test('neither a gap nor a restart is a recovery of a late schedule or an overdue duty', async () => {
  await db.pool.query("insert into leasehold.stages (name) values ('work')")
  await db.pool.query(
    "insert into leasehold.schedules (name, stage, cron) values ('report', 'work', '0 * * * *')",
  )
  await registerDuties(db.pool)
  for (let minutes = 0; minutes < 12; minutes++) {
    await look()
    await db.advance(minute)
  }
  const before = await openIncidents('housekeeping_overdue')
  expect(before).toContain('vacuum')
  expect(await openIncidents('schedule_missed')).toEqual(['scheduler'])
  // Nobody looks for ten minutes; then another monitor does.
  await db.advance(10 * minute)
  await look()
  expect(await openIncidents('housekeeping_overdue')).toEqual(before)
  expect(await openIncidents('schedule_missed')).toEqual(['scheduler'])
  await db.pool.query(
    `update leasehold.housekeeping set succeeded_at = leasehold.clock() where duty = 'vacuum'`,
  )
  await look()
  expect(await openIncidents('housekeeping_overdue')).not.toContain('vacuum')
})
