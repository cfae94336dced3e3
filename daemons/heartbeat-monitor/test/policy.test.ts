/**
 * The policy as looks follow it: caps, digest, quiet hours, gaps, reminders, recoveries; by the movable clock.
 *
 * The test database's clock is put to a fixed moment first, so that hours of the day can be reached.
 */
import { beforeEach, expect, test } from 'vitest'
import { type AlertPolicyInput, putAlertPolicy } from '@leasehold/queue'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { type Telling, handOver, tellings, until, waiting } from './telling.ts'
import { beat, stage, ttlMs, watch, work } from './watching.ts'

const minute = 60_000
const hour = 60 * minute

let db: TestDatabase
beforeEach(async ({ onTestFinished }) => {
  db = await createTestDatabase()
  onTestFinished(() => db.drop())
})

/** Opens an incident by hand, as a program beside the monitor would. */
async function open(kind: string, subject: string): Promise<void> {
  await db.pool.query('select leasehold.open_incident($1, $2, $3)', [kind, subject, `${subject} is wrong`])
}

async function resolve(subject: string): Promise<void> {
  await db.pool.query('update leasehold.incidents set resolved_at = leasehold.clock() where subject = $1', [
    subject,
  ])
}

/** One telling, as a look does it after it has found what it found; each answer is the messages it wrote. */
async function tell(): Promise<Telling[]> {
  return tellings(db)
}

async function begin(at: string, policy: AlertPolicyInput = {}): Promise<void> {
  await until(db, at)
  await putAlertPolicy(db.pool, policy)
}

test('what is wrong is told at once, twice a day; the rest is one digest in the morning', async () => {
  await begin('2027-03-01 09:00Z', { reserve: 0 })
  const told: string[] = []
  for (let n = 1; n <= 6; n++) {
    await open('task_quarantined', `t${n}`)
    for (const { purpose, subjects } of await tell()) told.push(`${purpose} ${subjects.join()}`)
    await db.advance(2 * hour)
  }
  expect(told).toEqual(['alert t1', 'alert t2'])
  expect(await waiting(db)).toBe(4)

  await until(db, '2027-03-02 07:59Z')
  expect(await tell()).toEqual([])
  await until(db, '2027-03-02 08:00Z')
  expect(await tell()).toMatchObject([{ purpose: 'digest', subjects: ['t3', 't4', 't5', 't6'] }])
  await db.advance(minute + 1)
  await open('task_quarantined', 't7')
  expect(await tell()).toMatchObject([{ purpose: 'alert', subjects: ['t7'] }])
  await db.advance(minute + 1)
  await open('task_quarantined', 't8')
  expect(await tell()).toEqual([])
})

test('what happens within a minute of a message is told together', async () => {
  await begin('2027-03-01 09:00Z', { perDay: 10 })
  await open('task_quarantined', 't0')
  await db.stopClock()
  expect(await tell()).toHaveLength(1)
  for (let n = 1; n <= 5; n++) {
    await db.advance(10_000)
    await open('task_quarantined', `t${n}`)
    expect(await tell()).toEqual([])
  }
  await db.advance(10_001)
  expect(await tell()).toMatchObject([{ subjects: ['t1', 't2', 't3', 't4', 't5'] }])
})

test('a recovery is told by itself, but not with the last message of the day', async () => {
  await begin('2027-03-01 09:00Z', { perDay: 3, gapMs: 0 })
  await open('monitor_silent', 'a')
  await tell()
  await resolve('a')
  expect(await tell()).toMatchObject([{ purpose: 'alert', subjects: ['a'], whats: ['resolved'] }])
  await open('monitor_silent', 'b')
  expect(await tell()).toHaveLength(1)
  await resolve('b')
  expect(await tell()).toEqual([])

  await begin('2027-03-01 10:00Z', { perDay: 4, reserve: 1 })
  expect(await tell()).toEqual([])
  await open('monitor_silent', 'c')
  expect(await tell()).toMatchObject([{ subjects: ['b', 'c'], whats: ['resolved', 'opened'] }])
})

test('what was over before it could be told is told once, as over', async () => {
  await begin('2027-03-01 23:00Z', { quiet: { from: '22:00', until: '07:00' } })
  await open('workers_missing', 's')
  expect(await tell()).toEqual([])
  await db.advance(hour)
  await resolve('s')
  expect(await tell()).toEqual([])
  await until(db, '2027-03-02 07:00Z')
  const [message, ...others] = await tell()
  expect(others).toEqual([])
  expect(message).toMatchObject({ subjects: ['s'], whats: ['opened'] })
  expect(message!.text.subject).toContain('(over again)')
  expect(await tell()).toEqual([])
})

test('what is over sooner than its kind’s age is never told', async () => {
  await begin('2027-03-01 09:00Z', { rules: { workers_missing: { minAgeMs: 5 * minute } } })
  await open('workers_missing', 'short')
  await open('workers_missing', 'long')
  expect(await tell()).toEqual([])
  await db.advance(4 * minute)
  await resolve('short')
  expect(await tell()).toEqual([])
  await db.advance(minute)
  expect(await tell()).toMatchObject([{ subjects: ['long'] }])
  expect(await waiting(db)).toBe(0)
})

test('what stays open is told again after its time, and no more once it is over', async () => {
  await begin('2027-03-01 09:00Z', { rules: { workers_missing: { remindAfterMs: 6 * hour } } })
  await open('workers_missing', 's')
  await tell()
  await db.advance(6 * hour)
  // The day's last message is kept for new trouble: the reminder waits for the digest.
  expect(await tell()).toEqual([])
  await until(db, '2027-03-02 08:00Z')
  expect(await tell()).toMatchObject([{ purpose: 'digest', whats: ['reminder'] }])
  await db.advance(6 * hour)
  await tell()
  expect(await waiting(db)).toBe(1)
  await resolve('s')
  await tell()
  await until(db, '2027-03-03 08:00Z')
  expect(await tell()).toMatchObject([{ purpose: 'digest', whats: ['resolved'] }])
})

test('kinds that say digest wait for it, kinds that say never are never told, and a change counts at once', async () => {
  await begin('2027-03-01 09:00Z', { rules: { workers_missing: { tell: 'never' } } })
  await open('tasks_failing', 'd')
  await open('workers_missing', 'n')
  expect(await tell()).toEqual([])
  expect(await waiting(db)).toBe(1)
  await putAlertPolicy(db.pool, {
    rules: { workers_missing: { tell: 'now' }, tasks_failing: { tell: 'never' } },
  })
  expect(await tell()).toMatchObject([{ purpose: 'alert', subjects: ['n'] }])
  expect(await waiting(db)).toBe(0)
})

test('a kind that nobody has written a rule for follows the star, and without that is told at once', async () => {
  await begin('2027-03-01 09:00Z', { rules: { '*': { tell: 'digest' } } })
  await open('moon_is_full', 'm')
  expect(await tell()).toEqual([])
  await db.pool.query("delete from leasehold.alert_rules where kind = '*'")
  const [message] = await tell()
  expect(message).toMatchObject({ purpose: 'alert', subjects: ['m'] })
  expect(message!.text.body).toContain('m is wrong')
})

test('in quiet hours only what may pass is told, the rest waits as one message', async () => {
  await begin('2027-03-01 22:30Z', { perDay: 5, quiet: { from: '22:00', until: '07:00' } })
  await open('workers_missing', 'waits-1')
  await open('stage_without_worker', 'urgent')
  expect(await tell()).toMatchObject([{ subjects: ['urgent'] }])
  await db.advance(3 * hour)
  await open('task_quarantined', 'waits-2')
  expect(await tell()).toEqual([])
  await until(db, '2027-03-02 07:00Z')
  expect(await tell()).toMatchObject([{ purpose: 'alert', subjects: ['waits-1', 'waits-2'] }])
})

test('what could not be sent before quiet hours waits for their end, and is asked about every minute', async () => {
  await begin('2027-03-01 21:50Z', { quiet: { from: '22:00', until: '07:00' } })
  await open('workers_missing', 's')
  await tellings(db, { held: true })
  const facts = async () => {
    const { rows } = await db.pool.query(
      `select (extract(epoch from leasehold.channel_rests('email')))::int as rests,
        array(select leasehold.overdue_channels('30 seconds')) as overdue`,
    )
    return rows[0] as { rests: number | null; overdue: string[] }
  }
  expect((await facts()).rests).toBeNull()
  for (const moment of ['2027-03-01 22:00Z', '2027-03-02 03:00Z', '2027-03-02 06:59Z']) {
    await until(db, moment)
    expect(await handOver(db.pool, ['email']), moment).toBe(0)
    expect(await facts()).toEqual({ rests: 60, overdue: [] })
  }
  await until(db, '2027-03-02 07:00Z')
  expect(await handOver(db.pool, ['email'])).toBe(1)
})

test('what may pass quiet hours takes along what has waited since before, as one message', async () => {
  await begin('2027-03-01 21:50Z', { perDay: 1, reserve: 0, quiet: { from: '22:00', until: '07:00' } })
  await open('workers_missing', 'waits')
  await tellings(db, { held: true })
  await until(db, '2027-03-01 23:00Z')
  expect(await handOver(db.pool, ['email'])).toBe(0)
  await open('stage_without_worker', 'urgent')
  expect(await tellings(db, { held: true })).toMatchObject([{ subjects: ['urgent'] }])
  expect(await handOver(db.pool, ['email'])).toBe(2)
  const { rows } = await db.pool.query('select count(distinct transmission)::int as n from leasehold.alerts')
  expect(rows).toEqual([{ n: 1 }])
})

test('a digest that is late waits for the end of quiet hours, and at night only for what may pass', async () => {
  await begin('2027-03-01 09:00Z', { perDay: 5, quiet: { from: '22:00', until: '07:00' } })
  await open('tasks_failing', 'd')
  expect(await tell()).toEqual([])
  // Nobody looks in the morning.
  await until(db, '2027-03-02 23:00Z')
  expect(await tell()).toEqual([])
  await open('stage_without_worker', 'urgent')
  expect(await tell()).toMatchObject([{ purpose: 'alert', subjects: ['urgent'] }])
  await until(db, '2027-03-03 07:00Z')
  expect(await tell()).toMatchObject([{ purpose: 'digest', subjects: ['d'] }])
})

test('a zone that this server has lost does not stop anybody from being told', async () => {
  await begin('2027-03-01 09:00Z')
  await db.pool.query(`alter table leasehold.alert_policy disable trigger alert_zone_is_known;
    update leasehold.alert_policy set zone = 'Atlantis/Capital'`)
  await open('monitor_silent', 'm')
  expect(await tell()).toHaveLength(1)
})

test('a burst whose leases run out one after the other is one message, within an interval of the first', async () => {
  await stage(db, 's')
  const monitor = await watch(db, null, { policy: 'as it is', intervalMs: 60_000 })
  // All on one host: they beat at their own moments, and die at one.
  for (let n = 0; n < 10; n++) {
    await work(db, `w@${n}`, ['s'])
    await db.advance(3_000)
  }
  await db.advance(ttlMs - 29_000)
  const first = await monitor.tick()
  expect(first.opened.length).toBeGreaterThan(0)
  expect(first.opened.length).toBeLessThan(10)
  expect(first.alertIds).toEqual([])
  expect(first.againMs).toBeGreaterThan(20_000)
  expect(first.againMs).toBeLessThan(30_000)

  await db.advance(first.againMs!)
  expect((await monitor.tick()).alertIds).toHaveLength(1)
  const { rows } = await db.pool.query('select subject from leasehold.alerts')
  expect(rows).toEqual([{ subject: 'Leasehold: 10 workers died, no task was held' }])
})

test('one death is told in the look that finds it, whoever else is a little late', async () => {
  await stage(db, 's')
  const monitor = await watch(db, null, { policy: 'as it is', intervalMs: 60_000 })
  await work(db, 'dies', ['s'])
  const late = await work(db, 'late', ['s'])
  await db.advance(ttlMs - 55_000)
  await beat(db, late)
  await db.advance(55_001)
  expect(await monitor.tick()).toMatchObject({
    opened: [{ kind: 'worker_dead' }],
    alertIds: [expect.any(String)],
  })
})

test('that a stage has nobody left is not told again with the last message, right after the death that said so', async () => {
  await stage(db, 's')
  await db.pool.query("insert into leasehold.tasks (stage) values ('s')")
  const monitor = await watch(db, null, { policy: 'as it is', intervalMs: 60_000 })
  await work(db, 'w', ['s'])
  await db.advance(ttlMs + 1)
  expect((await monitor.tick()).alertIds).toHaveLength(1)
  expect(await handOver(db.pool, ['email'])).toBe(1)
  await db.advance(2 * minute)
  expect(await monitor.tick()).toMatchObject({ opened: [{ kind: 'stage_without_worker' }], alertIds: [] })
  expect(await waiting(db)).toBe(1)
})

test('a message that could not be composed or written leaves the release of workers alone, and is told by the next look', async () => {
  await stage(db, 's')
  const monitor = await watch(db, null, { policy: 'as it is', intervalMs: 60_000 })
  await work(db, 'w', ['s'])
  await db.advance(ttlMs + 1)
  await db.pool.query('alter function leasehold.write_message rename to gone')
  expect(await monitor.tick()).toMatchObject({ opened: [{ kind: 'worker_dead' }], alertIds: [] })
  expect(monitor.lines.named('telling.failed')).toHaveLength(1)
  expect((await db.pool.query('select from leasehold.dead_workers')).rowCount).toBe(1)

  await db.pool.query('alter function leasehold.gone rename to write_message')
  expect((await monitor.tick()).alertIds).toHaveLength(1)
})

test('incidents with details that nobody expects are told by their summary', async () => {
  await begin('2027-03-01 09:00Z')
  await db.pool.query(
    `select leasehold.open_incident('worker_dead', '00000000-0000-4000-8000-000000000009', 'strange death', '[1, null]')`,
  )
  const [message] = await tell()
  expect(message!.text.body).toContain('strange death')
})
