/**
 * The outbox: what happens to an alert between the table and the mail server, when either of them or the process fails.
 */
import { beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { MailServer } from './mail-server.ts'
import { alerts, keepCrontabStill, stage, submit, ttlMs, watch, work } from './watching.ts'

let db: TestDatabase
let mail: MailServer
beforeEach(async ({ onTestFinished }) => {
  db = await createTestDatabase()
  mail = await new MailServer().start()
  onTestFinished(() => mail.stop())
  onTestFinished(() => db.drop())
  await stage(db, 's')
})

/** A worker that dies before the next look. */
async function death(slot: string): Promise<void> {
  await work(db, slot, ['s'])
  await db.advance(ttlMs + 1)
}

async function openIncidents(): Promise<string[]> {
  const { rows } = await db.pool.query<{ kind: string }>(
    'select kind from leasehold.open_incidents order by id',
  )
  return rows.map((row) => row.kind)
}

test('while the mail server is away looks go on, and on its return one mail tells everything in order', async () => {
  await mail.stop()
  const monitor = await watch(db, mail)
  for (const slot of ['one', 'two', 'three']) {
    await death(slot)
    expect((await monitor.tick()).alertIds).toHaveLength(1)
  }
  await monitor.lines.wait('alert.failed', 3)
  await monitor.tick()
  expect(await openIncidents()).toContain('channel_down')
  expect(await alerts(db)).toMatchObject([
    { sent: false, last_error: expect.stringContaining('ECONNREFUSED') },
    { sent: false },
    { sent: false },
  ])

  await mail.start()

  const { subject, text = '' } = await mail.mail(1)
  expect(subject).toBe('Leasehold: 3 alerts held back; last: 1 worker died, no task was held')
  const places = ['DEAD  one', 'DEAD  two', 'DEAD  three'].map((what) => text.indexOf(what))
  expect(places).toEqual(places.toSorted((a, b) => a - b))
  expect(places[0]).toBeGreaterThan(0)
  await monitor.lines.wait('alert.sent')
  expect((await alerts(db)).map((alert) => alert.sent)).toEqual([true, true, true])
  const found = await monitor.tick()
  expect(found.resolved.map((incident) => incident.kind)).toContain('channel_down')
  expect(found.alertIds).toEqual([])
})

test('a mail server that hangs delays its mail and nothing else', async () => {
  mail.manner = 'hangs'
  const monitor = await watch(db, mail)
  await death('one')
  await monitor.tick()
  await mail.attempted(1)

  await death('two')
  expect((await monitor.tick()).opened).toHaveLength(1)

  await mail.stop()
  mail.manner = 'accepts'
  await monitor.lines.wait('alert.failed')
  await mail.start()
  await monitor.lines.wait('alert.sent')
  expect((await mail.mail(1)).text).toContain('DEAD  one')
})

test('a refusal by every recipient is tried again and shown by the views, never dropped', async () => {
  mail.manner = 'refuses'
  const monitor = await watch(db, mail)
  await death('one')
  await monitor.tick()
  await monitor.lines.wait('alert.failed', 3)
  await monitor.tick()
  expect(await openIncidents()).toContain('channel_down')
  expect((await alerts(db))[0]?.last_error).toContain('550 no such mailbox here')

  mail.manner = 'accepts'

  await mail.mail(1)
})

test('a recipient that is refused is remarked upon while the others get their mail', async () => {
  mail.unknown.add('gone@shop.example')
  const monitor = await watch(db, mail, {
    smtp: {
      host: '127.0.0.1',
      port: mail.port,
      login: null,
      from: 'alerts@shop.example',
      to: ['gone@shop.example', 'ops@shop.example'],
    },
  })
  await death('one')
  await monitor.tick()
  await monitor.lines.wait('alert.sent')

  expect(await alerts(db)).toMatchObject([{ sent: true, last_error: 'refused for gone@shop.example' }])
})

test('the login is used', async () => {
  const monitor = await watch(db, mail, {
    smtp: {
      host: '127.0.0.1',
      port: mail.port,
      login: { user: 'mailer', password: 'made up for this test' },
      from: 'alerts@shop.example',
      to: ['ops@shop.example'],
    },
  })
  await death('one')
  await monitor.tick()
  await mail.mail(1)

  expect(mail.logins).toEqual(['mailer'])
})

test('an alert whose job died with its process is found by the next look, and a copy is recognisable', async () => {
  const monitor = await watch(db, mail)
  await death('one')
  await monitor.tick()
  const original = await mail.mail(1)
  await monitor.lines.wait('alert.sent')
  // As a process leaves it that died after the server took the mail: being handed over, unsent, and no job.
  await db.pool.query(
    `update leasehold.alerts set sent_at = null, handing_over_at = leasehold.clock(),
      claimed_until = leasehold.clock() + interval '1 minute'`,
  )
  await monitor.tick()
  expect(mail.mails).toHaveLength(1)
  await db.advance(2 * 60_000)

  await monitor.tick()

  expect((await mail.mail(2)).messageId).toBe(original.messageId)
})

test('without graphile-worker deaths are still released and written down, and mailed when it works', async () => {
  await db.pool.query('create schema graphile_worker; create table graphile_worker.migrations (id text)')
  const monitor = await watch(db, mail)
  await monitor.lines.wait('side_jobs.failed')
  await death('one')

  expect((await monitor.tick()).opened).toHaveLength(1)
  expect(await alerts(db)).toMatchObject([{ sent: false, tries: 0 }])

  // Out of the way without a lock on what is in it, which the monitor is about to try again.
  await db.pool.query('alter schema graphile_worker rename to not_graphile_worker')
  await mail.mail(1)
})

test('a job that cannot be made takes no look down', async () => {
  await keepCrontabStill(db)
  const monitor = await watch(db, mail)
  await death('one')
  await monitor.tick()
  await mail.mail(1)
  await db.pool.query(
    'alter function graphile_worker.add_job(text, json, text, timestamptz, integer, text, integer, text[], text) rename to gone',
  )
  await death('two')

  expect((await monitor.tick()).opened).toHaveLength(1)
  expect(monitor.lines.named('delivery.deferred').length).toBeGreaterThan(0)

  await db.pool.query(
    'alter function graphile_worker.gone(text, json, text, timestamptz, integer, text, integer, text[], text) rename to add_job',
  )
  await db.advance(60_000)
  await monitor.tick()
  expect((await mail.mail(2)).text).toContain('DEAD  two')
})

async function crontabs(): Promise<string[]> {
  const { rows } = await db.pool.query<{ identifier: string }>(
    'select identifier from graphile_worker._private_known_crontabs order by 1',
  )
  return rows.map((row) => row.identifier)
}

test('monitors that start at the same moment make the side jobs once and without quarrel', async () => {
  const monitors = await Promise.all([1, 2, 3, 4].map(() => watch(db, mail)))
  await death('one')
  await Promise.all(monitors.map((monitor) => monitor.tick()))
  await mail.mail(1)

  expect(monitors.flatMap((monitor) => monitor.lines.named('side_jobs.failed'))).toEqual([])
  // Crontabs are written down beside the first jobs, not before them.
  await expect
    .poll(crontabs)
    .toEqual([
      'leasehold_depths',
      'leasehold_leases',
      'leasehold_partitions',
      'leasehold_retention',
      'leasehold_run_ledger',
      'leasehold_runs',
      'leasehold_tidy',
      'leasehold_vacuum',
    ])
})

test('housekeeping runs as jobs: partitions lie ahead, depths are counted but not too often, old rows go', async () => {
  await keepCrontabStill(db)
  const monitor = await watch(db, mail)
  await submit(db, 's')
  await death('one')
  await monitor.tick()
  await mail.mail(1)
  await db.pool.query("select setval('leasehold.tasks_id_seq', 45000000)")
  await db.pool.query("update leasehold.alerts set created_at = created_at - interval '91 days'")

  for (const job of [
    'leasehold_partitions',
    'leasehold_depths',
    'leasehold_depths',
    'leasehold_run_ledger',
    'leasehold_tidy',
  ]) {
    await db.pool.query('select graphile_worker.add_job($1)', [job])
    // One after the other: a duty that finds its own other turn at work leaves it alone.
    await expect.poll(async () => (await db.pool.query('select from graphile_worker.jobs')).rowCount).toBe(0)
  }

  // The ids had left all ranges: they jump into a new one, and two more lie ahead.
  const ranges = await db.pool.query(
    'select opened_at is not null as open from leasehold.partitions where first_id > 45000000 order by first_id',
  )
  expect(ranges.rows).toEqual([{ open: true }, { open: false }, { open: false }])
  const { rows } = await db.pool.query('select stage, ready::integer from leasehold.stage_samples')
  expect(rows).toEqual([{ stage: 's', ready: 1 }])
  expect(await alerts(db)).toEqual([])
  const records = await db.pool.query(
    'select duty, turns::integer, outcome, did from leasehold.housekeeping where turns > 0 order by duty',
  )
  expect(records.rows).toEqual([
    { duty: 'depths', turns: 2, outcome: 'done', did: { sampled: 0 } },
    { duty: 'partitions', turns: 1, outcome: 'done', did: { made: 3, rotated: 1 } },
    { duty: 'run_ledger', turns: 1, outcome: 'done', did: { merged: 0 } },
    { duty: 'tidy', turns: 1, outcome: 'done', did: { alerts: 1 } },
  ])
})

test('a member of leasehold_owner that may create a schema is all a monitor needs to be', async ({
  onTestFinished,
}) => {
  const role = `monitor_${db.name}`
  await db.pool.query(`create role ${role} login password 'made up' in role leasehold_owner`)
  await db.pool.query(`grant create on database ${db.name} to ${role}`)
  onTestFinished(async () => {
    await db.pool.query(`drop owned by ${role} cascade; drop role ${role}`)
  })
  const url = new URL(db.url)
  url.username = role
  url.password = 'made up'
  const monitor = await watch(db, mail, { connectionString: url.href })
  await death('one')
  await monitor.tick()

  await mail.mail(1)
  expect(monitor.lines.all.filter((line) => line.level === 'error')).toEqual([])
})
