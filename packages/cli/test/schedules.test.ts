/**
 * `leasehold schedules`: what is refused before anything is written, what is shown, and how each part ends.
 */
import { listSchedules, putSchedule } from '@leasehold/queue'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { leasehold, leaseholdJson } from './leasehold.ts'

let db: TestDatabase
let env: { DATABASE_URL: string }

beforeAll(async () => {
  db = await createTestDatabase()
  env = { DATABASE_URL: db.url }
  await db.pool.query("insert into leasehold.stages (name) values ('work')")
  // Half past eleven: neither a full hour nor a new day comes by in the middle of a test by itself.
  await db.pool.query(`update leasehold_test.clock set ahead = ahead
    + date_trunc('day', now(), 'UTC') + interval '1 day 11 hours 30 minutes' - now()`)
})
afterAll(() => db.drop())

test('an expression is previewed without a database, with what clock changes do to it', async () => {
  const args = ['schedules', 'next', '--cron', '30 1 * * *', '--zone', 'Europe/London', '--count', '2']
  const { code, stdout } = await leasehold([...args, '--after', '2027-03-27T12:00:00Z'], {})
  expect(code).toBe(0)
  expect(stdout).toContain('2027-03-28 02:30:00 +01:00')
  expect(stdout).toContain('01:30 is skipped by the clocks that day')
})

test('add makes, changes and leaves alone; what cannot work is refused and nothing is written', async () => {
  const add = ['schedules', 'add', 'report', '--stage', 'work']
  const made = await leasehold(
    [...add, '--cron', '0 6 * * MON', '--zone', 'America/New_York', '--payload', '{"id": 7}'],
    env,
  )
  expect(made).toMatchObject({
    code: 0,
    stdout: expect.stringMatching(/^schedule report created, next .* 06:00:00 -0/),
  })
  const timing = ['--cron', '0 6 * * MON', '--zone', 'America/New_York']
  expect((await leasehold([...add, ...timing, '--payload', '{"id": 7}'], env)).code).toBe(4)
  const refused = await leasehold([...add, '--cron', '0 6 30 2 *', '--zone', 'Europe/Lodnon'], env)
  expect(refused.code).toBe(2)
  expect(refused.stderr).toMatch(
    /--zone: 'Europe\/Lodnon' is no IANA time zone.*\n.*--cron: '0 6 30 2 \*' names a day that never comes/,
  )
  expect(refused.stderr).toContain('near names: Europe/London')
  expect(await listSchedules(db.pool, { name: 'report' })).toMatchObject([
    { cron: '0 6 * * MON', owner: 'cli' },
  ])
})

test('fire submits the slot that is due once; asking again is no failure', async () => {
  await putSchedule(db.pool, { name: 'often', stage: 'work', everyMs: 86_400_000, owner: 'sql' })
  const first = await leaseholdJson<{ result: string; taskId: string }>(['schedules', 'fire', 'often'], env)
  const second = await leaseholdJson<{ result: string; taskId: string }>(['schedules', 'fire', 'often'], env)
  expect(first).toMatchObject({ result: 'fired', taskId: expect.stringMatching(/^\d+$/) })
  expect(second).toEqual({ ...first, result: 'before' })
  const extra = await leaseholdJson<{ taskId: string }>(['schedules', 'fire', 'often', '--extra'], env)
  expect(extra.taskId).not.toBe(first.taskId)
  const history = await leaseholdJson<{ reason: string | null; taskId: string }[]>(
    ['schedules', 'history', 'often'],
    env,
  )
  expect(history.map(({ reason }) => reason)).toEqual(['extra', null])
})

test('the list says that nobody fires, and what is broken', async () => {
  await db.pool.query(
    "insert into leasehold.schedules (name, stage, cron) values ('bad', 'work', '99 9 * * *')",
  )
  const { stdout, code } = await leasehold(['schedules'], env)
  expect(code).toBe(0)
  expect(stdout).toContain('no scheduler lives: nothing fires. Start one: npx leasehold scheduler')
  const next = await leasehold(['schedules', 'next'], env)
  expect(next.stderr).toContain('schedule bad cannot be computed')
  expect(next.stdout).toContain('report')
})

test('exit codes: 3 for an unknown name, 4 for nothing to do, 2 for what the manifest keeps', async () => {
  const parts = ['remove', 'enable', 'disable', 'fire', 'next', 'history']
  const codes = await Promise.all(
    parts.map(async (part) => (await leasehold(['schedules', part, 'nobody'], env)).code),
  )
  expect(codes).toEqual(parts.map(() => 3))
  expect((await leasehold(['schedules', 'enable', 'report'], env)).code).toBe(4)
  expect((await leasehold(['schedules', 'disable', 'report'], env)).code).toBe(0)
  await putSchedule(db.pool, { name: 'declared', stage: 'work', cron: '0 6 * * *', owner: 'manifest' })
  const kept = await leasehold(['schedules', 'remove', 'declared'], env)
  expect(kept).toMatchObject({ code: 2, stderr: expect.stringContaining('npx leasehold apply') })
  expect((await leasehold(['schedules', 'remove', 'report'], env)).code).toBe(0)
})

test('what a systemd timer calls makes up for each missed slot where the schedule says all, without its jitter', async () => {
  const hourMs = 3_600_000
  const each = { name: 'each', stage: 'work', everyMs: hourMs, catchUp: 'all', jitterMs: 600_000 } as const
  await putSchedule(db.pool, { ...each, owner: 'sql' })
  await db.advance(3 * hourMs)
  expect(await leaseholdJson(['schedules', 'fire', 'each'], env)).toMatchObject({ result: 'fired' })
  const history = await leaseholdJson<{ outcome: string }[]>(['schedules', 'history', 'each'], env)
  expect(history.map(({ outcome }) => outcome)).toEqual(['fired', 'fired', 'fired'])
})

test('an edit here computes the next slot, and where timers fire nobody asks for a scheduler', async () => {
  await db.pool.query('delete from leasehold.schedules')
  const add = ['schedules', 'add', 'timed', '--stage', 'work', '--cron', '0 6 * * *', '--fired-by', 'timer']
  expect((await leasehold(add, env)).code).toBe(0)
  const known = async () => (await listSchedules(db.pool, { name: 'timed' }))[0]!
  expect(await known()).toMatchObject({ firedBy: 'timer', nextSlot: expect.any(Date) })
  await leasehold(['schedules', 'disable', 'timed'], env)
  expect(await known()).toMatchObject({ nextSlot: null })
  await leasehold(['schedules', 'enable', 'timed'], env)
  expect(await known()).toMatchObject({ nextSlot: expect.any(Date) })
  const { stdout } = await leasehold(['schedules'], env)
  expect(stdout).toContain('0 schedulers live; timers are to fire 1')
  const { code, stderr } = await leasehold(['schedules', 'next', '--cron', '0 0 */2 * MON'], {})
  expect([code, stderr]).toEqual([2, expect.stringContaining("write '0 0 1-31/2 * MON' for either")])
})

test('a schedule that a transaction holds is exit code 1, so that a systemd timer tries again', async () => {
  await putSchedule(db.pool, { name: 'locked', stage: 'work', everyMs: 86_400_000, owner: 'sql' })
  const editor = await db.client()
  await editor.query("begin; update leasehold.schedules set payload = '[]' where name = 'locked'")
  const { code, stderr } = await leasehold(['schedules', 'fire', 'locked'], env)
  await editor.query('rollback')
  expect([code, stderr]).toEqual([1, expect.stringMatching(/is held by a transaction[^]*pg_stat_activity/)])
})
