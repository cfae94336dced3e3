/**
 * Dead workers: released, told once, in one mail, whoever noticed and however many watch.
 */
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import type { IncidentOf } from '../src/index.ts'
import { duration } from '../src/plain-text.ts'
import { MailServer } from './mail-server.ts'
import { alerts, beat, claim, stage, stateOf, submit, ttlMs, watch, work } from './watching.ts'

const hour = 3_600_000

let mail: MailServer
beforeAll(async () => {
  mail = await new MailServer().start()
})
afterAll(() => mail.stop())

let db: TestDatabase
beforeEach(async ({ onTestFinished }) => {
  mail.mails.length = 0
  db = await createTestDatabase()
  // After the monitors of the test have stopped, which are registered later.
  onTestFinished(() => db.drop())
  await stage(db, 'company_research')
})

test('a dead worker is released, becomes an incident, and a mail tells who it was, what it held and what to do', async () => {
  const monitor = await watch(db, mail)
  const worker = await work(db, 'company_research@2', ['company_research'])
  const task = await submit(db, 'company_research', 'Research Harbour Hotels')
  await claim(db, worker, 'company_research')
  await db.advance(ttlMs + 1)

  const found = await monitor.tick()

  expect(found.opened).toMatchObject([{ kind: 'worker_dead', subject: worker }])
  expect(await stateOf(db, task)).toBe('ready')
  const { subject, text, to, from, headers, messageId } = await mail.mail(1)
  expect(subject).toBe('Leasehold: 1 worker died, 1 task released')
  expect(text).toContain(`worker id    ${worker}`)
  expect(text).toContain('DEAD  company_research@2')
  expect(text).toContain('stage        company_research')
  expect(text).toContain('process      host crane.example, pid 4711')
  const { silent_s: silentS } = (found.opened[0] as IncidentOf<'worker_dead'>).details
  expect(silentS).toBeGreaterThanOrEqual(ttlMs / 1_000)
  const said = `last seen    ${duration(silentS)} ago, at `
  expect(text?.split(said)[1]).toMatch(/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC/)
  expect(text).toContain(`held         task ${task} "Research Harbour Hotels" (company_research)`)
  expect(text).toContain('leases       released: 1 task can be claimed again')
  expect(text).toContain('now          NO live worker is left for company_research')
  expect(text).toContain('npx leasehold runner --stage company_research')
  expect(text).toContain(`Database ${db.name}`)
  expect(to).toEqual([{ address: 'ops@shop.example', name: '' }])
  expect(from).toEqual({ address: 'alerts@shop.example', name: 'Leasehold' })
  expect(headers).toContainEqual(expect.objectContaining({ key: 'auto-submitted', value: 'auto-generated' }))
  expect(messageId).toMatch(/^<leasehold-alert-1-\d+@shop\.example>$/)
  expect(await db.pool.query('select kind from leasehold.open_incidents')).toMatchObject({
    rows: [{ kind: 'worker_dead' }],
  })
})

test('it is told when the stage of a dead worker is served again', async () => {
  const monitor = await watch(db, mail)
  await work(db, 'company_research@1', ['company_research'])
  await db.advance(ttlMs + 1)
  await monitor.tick()
  expect((await mail.mail(1)).subject).toBe('Leasehold: 1 worker died, no task was held')
  await work(db, 'company_research@1', ['company_research'])

  const { resolved } = await monitor.tick()

  expect(resolved).toMatchObject([{ kind: 'worker_dead' }])
  const { subject, text } = await mail.mail(2)
  expect(subject).toBe(
    'Leasehold: resolved: company_research@1: its slot or its stages have a live worker again',
  )
  expect(text).toContain('Resolved:')
  expect(await monitor.tick()).toMatchObject({ opened: [], resolved: [], alertIds: [] })
})

test('one death among living colleagues needs one mail and no second one', async () => {
  const monitor = await watch(db, mail)
  await work(db, 'company_research@1', ['company_research'])
  const colleague = await work(db, 'company_research@2', ['company_research'])
  await db.advance(ttlMs / 2)
  await beat(db, colleague)
  await db.advance(ttlMs / 2 + 1)

  await monitor.tick()
  const later = await monitor.tick()

  expect((await mail.mail(1)).text).toContain('other live workers serve its stages')
  expect(later).toMatchObject({ resolved: [{ kind: 'worker_dead' }], alertIds: [] })
})

test('five hundred deaths are one look and one mail of bounded size', async () => {
  const monitor = await watch(db, mail)
  await db.pool.query(
    `select leasehold.register_worker('slot-' || n, '{company_research}', '90 s', '30 s', 'crane.example')
    from generate_series(1, 500) n`,
  )
  await db.advance(ttlMs + 1)

  const { opened, unfinished } = await monitor.tick()

  expect(opened).toHaveLength(500)
  expect(unfinished).toBe(false)
  const { subject, text = '' } = await mail.mail(1)
  expect(subject).toBe('Leasehold: 500 workers died, no task was held')
  expect(text).toContain('… and 450 more')
  expect(text.length).toBeLessThan(50_000)
  expect(await alerts(db)).toHaveLength(1)
})

test('two monitors that look at the same moment tell a death once', async () => {
  const monitors = [await watch(db, mail), await watch(db, mail)]
  const workers = await Promise.all([1, 2, 3].map((n) => work(db, `slot-${n}`, ['company_research'])))
  for (const worker of workers) {
    await submit(db, 'company_research')
    await claim(db, worker, 'company_research')
  }
  await db.advance(ttlMs + 1)

  const looks = await Promise.all([1, 2, 3, 4].flatMap(() => monitors.map((monitor) => monitor.tick())))

  expect(looks.flatMap((look) => look.opened)).toHaveLength(3)
  expect((await mail.mail(1)).subject).toBe('Leasehold: 3 workers died, 3 tasks released')
  await Promise.race(monitors.map((monitor) => monitor.lines.wait('alert.sent')))
  expect(await alerts(db)).toMatchObject([{ sent: true, tries: 1 }])
  expect(mail.mails).toHaveLength(1)
})

test('a worker that a runner released is told by the next look', async () => {
  const monitor = await watch(db, mail)
  const worker = await work(db, 'company_research@1', ['company_research'])
  const task = await submit(db, 'company_research')
  await claim(db, worker, 'company_research')
  await db.advance(ttlMs + 1)
  await db.pool.query('select leasehold.release_dead_workers()')

  await monitor.tick()

  expect((await mail.mail(1)).text).toContain(`held         task ${task}`)
})

test('what died while nobody looked for a weekend is told by the first look after it, and once', async () => {
  const monitor = await watch(db, mail)
  const dies = async (slot: string): Promise<string> => {
    const worker = await work(db, slot, ['company_research'])
    await db.advance(ttlMs + 1)
    await db.pool.query('select leasehold.release_dead_workers()')
    return worker
  }
  const worker = await dies('company_research@1')
  await db.advance(60 * hour)
  expect((await monitor.tick()).opened).toMatchObject([{ kind: 'worker_dead', subject: worker }])
  expect((await mail.mail(1)).text).toContain('DEAD  company_research@1')
  await monitor.lines.wait('alert.sent')

  // As retention leaves it: the worker's row outlives its incident.
  await db.pool.query('delete from leasehold.incidents')
  await db.advance(25 * hour)
  expect((await monitor.tick()).opened).toEqual([])

  await dies('company_research@2')
  await db.advance(8 * 24 * hour)
  expect((await monitor.tick()).opened).toEqual([])
})

test('a worker that crashed and whose slot was started again is told as such', async () => {
  const monitor = await watch(db, mail)
  const worker = await work(db, 'company_research@1', ['company_research'])
  await submit(db, 'company_research')
  await claim(db, worker, 'company_research')
  await work(db, 'company_research@1', ['company_research'])

  await monitor.tick()

  const { subject, text } = await mail.mail(1)
  expect(subject).toBe('Leasehold: 1 worker died, 1 task released')
  expect(text).toContain('its slot was started again and has taken over')
})

test('a worker that left in order is no incident', async () => {
  const monitor = await watch(db, mail)
  const worker = await work(db, 'company_research@1', ['company_research'])
  await db.pool.query('select leasehold.leave($1)', [worker])
  await db.advance(ttlMs + 1)

  expect(await monitor.tick()).toMatchObject({ opened: [], alertIds: [] })
})

test('a task that killed too many workers is named as quarantined, until somebody retries it', async () => {
  const monitor = await watch(db, mail)
  const task = await submit(db, 'company_research', 'poison')
  for (let crash = 1; crash <= 3; crash++) {
    const worker = await work(db, 'company_research@1', ['company_research'])
    expect(await claim(db, worker, 'company_research')).toEqual([task])
    await db.advance(ttlMs + 1)
    await monitor.tick()
    await mail.mail(crash)
  }

  const { subject, text } = await mail.mail(3)
  expect(subject).toBe('Leasehold: 1 worker died, 0 tasks released; 1 task quarantined')
  expect(text).toContain(`task ${task} "poison" (company_research): quarantined`)
  expect(text).toContain(`npx leasehold retry ${task}`)
  await db.pool.query('select leasehold.retry_task($1)', [task])
  expect((await monitor.tick()).resolved).toMatchObject([{ kind: 'task_quarantined', subject: task }])
})

test('names that try to break out of a header or a line stay within theirs', async () => {
  const monitor = await watch(db, mail)
  const evil = 'a\r\nBcc: everybody@shop.example\r\n\r\n<b>\u202Ehello'
  const worker = await work(db, 'slot"<>&%0d%0aBcc:x@shop.example', ['company_research'], { host: evil })
  await submit(db, 'company_research', evil)
  await claim(db, worker, 'company_research')
  await db.advance(ttlMs + 1)

  await monitor.tick()

  const { headers, text, to, bcc } = await mail.mail(1)
  expect(to).toHaveLength(1)
  expect(bcc).toBeUndefined()
  expect(headers.map((header) => header.key)).not.toContain('bcc')
  expect(text).toContain('process      host a Bcc: everybody@shop.example <b> hello, pid 4711')
  expect(text).not.toContain('\u202E')
})
