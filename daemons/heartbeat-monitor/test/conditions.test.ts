/**
 * Conditions: a stage without a worker, missing or wedged workers, silent monitors. Each opens once, is told, and is
 * told again when it is over; what is shorter than a restart is no incident.
 */
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { MailServer } from './mail-server.ts'
import { alerts, beat, claim, stage, submit, ttlMs, watch, work } from './watching.ts'

const minute = 60_000

let mail: MailServer
beforeAll(async () => {
  mail = await new MailServer().start()
})
afterAll(() => mail.stop())

let db: TestDatabase
beforeEach(async ({ onTestFinished }) => {
  mail.mails.length = 0
  db = await createTestDatabase()
  onTestFinished(() => db.drop())
})

test('a stage with work and no live worker is told within its patience, and when a worker has come', async () => {
  await stage(db, 'company_discovery')
  const monitor = await watch(db, mail)
  await submit(db, 'company_discovery')
  expect((await monitor.tick()).opened).toEqual([])
  await db.advance(minute + 1)

  expect((await monitor.tick()).opened).toMatchObject([
    { kind: 'stage_without_worker', subject: 'company_discovery' },
  ])
  const { subject, text } = await mail.mail(1)
  expect(subject).toBe('Leasehold: stage company_discovery has work and no worker')
  expect(text).toContain('last worker  none within the last day')
  expect(text).toContain('npx leasehold runner --stage company_discovery')

  expect(await monitor.tick()).toMatchObject({ opened: [], alertIds: [] })
  await work(db, 'company_discovery@1', ['company_discovery'])
  await monitor.tick()
  expect((await mail.mail(2)).subject).toBe(
    'Leasehold: resolved: stage company_discovery has a worker again, or no more work',
  )
})

test('old work is no reason to call a stage lonely while its worker is being restarted', async () => {
  await stage(db, 'company_discovery')
  const monitor = await watch(db, mail)
  const worker = await work(db, 'company_discovery@1', ['company_discovery'])
  await submit(db, 'company_discovery')
  await db.advance(10 * minute)
  await beat(db, worker)
  await db.pool.query('select leasehold.leave($1)', [worker])

  expect((await monitor.tick()).opened).toEqual([])
  await db.advance(minute + 1)
  expect((await monitor.tick()).opened).toMatchObject([{ kind: 'stage_without_worker' }])
})

test.each([
  [
    'due',
    "insert into leasehold.tasks (stage, run_at) values ('s', leasehold.clock() + interval '1 hour')",
    61,
    1,
  ],
  [
    'not due yet',
    "insert into leasehold.tasks (stage, run_at) values ('s', leasehold.clock() + interval '9 hours')",
    61,
    0,
  ],
  [
    'held by a key',
    "insert into leasehold.tasks (stage, concurrency_key) values ('s', 'k'), ('s', 'k')",
    2,
    1,
  ],
  [
    'of a paused stage',
    "insert into leasehold.tasks (stage) values ('s'); select leasehold.pause_stage('s')",
    61,
    0,
  ],
])('work that is %s counts for what it is', async (_case, sql, minutes, opened) => {
  await stage(db, 's')
  const monitor = await watch(db, null)
  await db.pool.query(sql)
  await db.advance(minutes * minute + 2 * minute)

  expect((await monitor.tick()).opened).toHaveLength(opened)
})

test('fewer workers than expected are told after a restart would be over', async () => {
  await stage(db, 'verify', { expected: 2 })
  await db.advance(minute + 1)
  const first = await work(db, 'verify@1', ['verify'])
  const second = await work(db, 'verify@2', ['verify'])
  const monitor = await watch(db, mail)
  await db.pool.query('select leasehold.leave($1)', [second])
  expect((await monitor.tick()).opened).toEqual([])

  await db.advance(minute + 1)
  await beat(db, first)
  await monitor.tick()
  expect((await mail.mail(1)).subject).toBe('Leasehold: stage verify has 1 of 2 workers')

  await work(db, 'verify@2', ['verify'])
  await monitor.tick()
  expect((await mail.mail(2)).text).toContain('stage verify has its 2 workers again')
})

test('a worker that beats while its loop stands still is wedged; one that is merely silent is not', async () => {
  await stage(db, 'verify')
  const wedged = await work(db, 'verify@1', ['verify'])
  await work(db, 'verify@2', ['verify'])
  await submit(db, 'verify')
  await claim(db, wedged, 'verify')
  const monitor = await watch(db, mail)
  await db.advance(ttlMs - 20_000)
  await db.pool.query('select leasehold.heartbeat($1, loop_age_ms => 69000, running => 1)', [wedged])

  expect((await monitor.tick()).opened).toMatchObject([{ kind: 'worker_wedged', subject: wedged }])
  const { subject, text } = await mail.mail(1)
  expect(subject).toBe('Leasehold: 1 worker wedged')
  expect(text).toContain('its main loop has not turned for 1 min 9 s')
  await db.pool.query('select leasehold.heartbeat($1, loop_age_ms => 5)', [wedged])
  expect((await monitor.tick()).resolved).toMatchObject([{ kind: 'worker_wedged' }])
})

test('a monitor that falls silent is told by its peer, one that was stopped is not', async () => {
  const [peer, stopped] = [await watch(db, mail), await watch(db, mail)]
  const killed = '00000000-0000-4000-8000-000000000001'
  await db.pool.query("select leasehold.monitor_beat($1, 'gull.example', 42, '1', 60000)", [killed])
  await stopped.stop()
  await db.advance(2 * minute)
  expect((await peer.tick()).opened).toEqual([])

  await db.advance(minute + 1)
  expect((await peer.tick()).opened).toMatchObject([{ kind: 'monitor_silent', subject: killed }])
  const { subject, text } = await mail.mail(1)
  expect(subject).toBe('Leasehold: the monitor on gull.example is silent')
  expect(text).toContain('npx leasehold monitor')

  const restarted = '00000000-0000-4000-8000-000000000002'
  await db.pool.query("select leasehold.monitor_beat($1, 'gull.example', 43, '1', 60000)", [restarted])
  expect((await peer.tick()).resolved).toMatchObject([{ kind: 'monitor_silent' }])
})

test('database_health says whether anybody looks: nobody ever did, one does, or for how long nobody has', async () => {
  const said = async (): Promise<unknown> => {
    const { rows } = await db.pool.query(
      "select status, value, advice from leasehold.database_health where name = 'monitor'",
    )
    return rows[0]
  }
  const advice = expect.stringContaining('npx leasehold monitor')
  expect(await said()).toEqual({ status: 'bad', value: 'never looked', advice })
  const monitor = await watch(db, null, { intervalMs: 60_000 })
  expect(await said()).toMatchObject({ status: 'ok', value: expect.stringMatching(/^last looked 00:00:/) })
  await monitor.stop()
  await db.advance(3 * minute)
  expect(await said()).toEqual({ status: 'bad', value: expect.stringMatching(/^last looked 00:03:/), advice })
})

test('everything of one look is one mail, with what is over at its end', async () => {
  await stage(db, 'a')
  await stage(db, 'b')
  const monitor = await watch(db, mail)
  await submit(db, 'a')
  await db.advance(2 * minute)
  await monitor.tick()
  await mail.mail(1)
  await work(db, 'b@1', ['b'])
  await submit(db, 'b')
  await db.advance(ttlMs + 1)
  await work(db, 'a@1', ['a'])

  await monitor.tick()

  const { subject, text = '' } = await mail.mail(2)
  expect(subject).toBe('Leasehold: 1 worker died, no task was held; 1 resolved')
  expect(text.indexOf('DEAD  b@1')).toBeLessThan(text.indexOf('Resolved:'))
  expect(await alerts(db)).toHaveLength(2)
})

test('a monitor without a mail server says so once and keeps its alerts in the table', async () => {
  await stage(db, 's')
  const monitor = await watch(db, null)
  await submit(db, 's')
  await db.advance(2 * minute)

  await monitor.tick()

  expect(monitor.lines.named('alerts.off')).toHaveLength(1)
  expect(await alerts(db)).toMatchObject([
    { subject: 'Leasehold: stage s has work and no worker', sent: false, tries: 0 },
  ])
})
