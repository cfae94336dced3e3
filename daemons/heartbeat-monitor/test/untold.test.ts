/**
 * That somebody outside hears nothing while nobody can be told, and hears again as soon as that is over or nothing is wrong.
 *
 * Real mail servers that do not take the mail, real workers that die; what the outside hears are real requests.
 */
import { once } from 'node:events'
import { createServer } from 'node:http'
import { putAlertPolicy } from '@leasehold/queue'
import { beforeEach, expect, onTestFinished, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { listenOnLoopback } from '../../../test/harness/loopback.ts'
import { MailServer } from './mail-server.ts'
import { until } from './telling.ts'
import { stage, ttlMs, watch, work } from './watching.ts'

const minute = 60_000
const hour = 60 * minute

let db: TestDatabase
let mail: MailServer
beforeEach(async () => {
  db = await createTestDatabase()
  await until(db, '2027-03-01 09:00Z') // far from the hour at which another day of the cap begins
  mail = await new MailServer().start()
  onTestFinished(async () => {
    await mail.stop()
    await db.drop()
  })
  await stage(db, 's')
})

/** Whoever watches from outside. */
async function watcher(): Promise<{ url: string; pings: number; next(): Promise<unknown> }> {
  const server = createServer((_request, response) => {
    outside.pings += 1
    response.end()
    server.emit('pinged')
  })
  onTestFinished(() => void server.close())
  const url = `http://127.0.0.1:${await listenOnLoopback(server)}/`
  const outside = { url, pings: 0, next: () => once(server, 'pinged') }
  return outside
}

async function death(slot: string): Promise<void> {
  await work(db, slot, ['s'])
  await db.advance(ttlMs + 1)
}

test('while telling fails, whoever watches from outside hears nothing, and the status says why', async () => {
  const outside = await watcher()
  await db.pool.query('alter function leasehold.gather_news() rename to gone')
  const found: (string | null)[] = []
  const monitor = await watch(db, mail, {
    intervalMs: 100,
    pingUrl: outside.url,
    onTick: ({ untold }) => found.push(untold),
  })
  await expect.poll(() => found.length).toBeGreaterThan(2)
  expect(found[0]).toContain('gather_news')
  expect(outside.pings).toBe(0)
  const pinged = outside.next()
  await db.pool.query('alter function leasehold.gone() rename to gather_news')
  await pinged
  expect(found.at(-1)).toBeNull()
  await monitor.stop()
})

test('with a mail server that takes nothing the ping stops, the reason is logged, and both are over with the outage', async () => {
  mail.manner = 'refuses'
  const outside = await watcher()
  let looks = 0
  const monitor = await watch(db, mail, {
    intervalMs: 100,
    pingUrl: outside.url,
    onTick: () => (looks += 1),
  })
  await outside.next()
  await work(db, 'one', ['s'])
  // A clock that leaps would be a gap, and a gap gives grace.
  await db.pool.query('delete from leasehold.monitor_gaps')
  await db.pool.query("update leasehold.workers set expires_at = leasehold.clock() - interval '1 second'")
  await monitor.lines.wait('alerts.untold')
  expect(monitor.lines.named('alerts.untold')[0]?.['reason']).toMatch(
    /^alerts by email could not be delivered: .*no such mailbox/,
  )
  const [heard, looked] = [outside.pings, looks]
  await expect.poll(() => looks).toBeGreaterThan(looked + 5)
  // One may have been on its way.
  expect(outside.pings).toBeLessThanOrEqual(heard + 1)

  mail.manner = 'accepts'
  await monitor.lines.wait('alerts.told')
  await outside.next()
  expect(monitor.lines.named('alerts.untold')).toHaveLength(1)
  await monitor.stop()
})

test('when doubts have used up the cap of the only channel, nobody can be told', async () => {
  mail.manner = 'swallows'
  await putAlertPolicy(db.pool, { perDay: 1, reserve: 0, gapMs: 0 })
  const monitor = await watch(db, mail, { policy: 'as it is' })
  await death('one')
  expect((await monitor.tick()).untold).toBeNull()
  await monitor.lines.wait('alert.failed')
  expect((await monitor.tick()).untold).toMatch(/^alerts by email could not be delivered/)
  await db.pool.query("delete from leasehold.incidents where kind = 'channel_down'")
  await db.pool.query("update leasehold.alert_rules set tell = 'never' where kind = 'channel_down'")
  await db.pool.query('update leasehold.alert_channels set failing_since = null')
  expect((await monitor.tick()).untold).toBe("alerts by email are withheld until the next digest's hour")
})

test('one channel that works is enough', async () => {
  mail.manner = 'refuses'
  const webhook = await watcher()
  const monitor = await watch(db, mail, { webhook: { url: webhook.url, secret: null } })
  await death('one')
  await monitor.tick()
  await monitor.lines.wait('alert.failed', 3)
  const found = await monitor.tick()
  expect(found.opened).toMatchObject([{ kind: 'channel_down', subject: 'email' }])
  expect(found.untold).toBeNull()
})

test('where no channel was ever configured the ping follows what is wrong, and comes back when nothing is', async () => {
  const monitor = await watch(db, null)
  expect((await monitor.tick()).untold).toBeNull()
  await death('one')
  const none = 'no channel is switched on and configured in a monitor'
  expect((await monitor.tick()).untold).toBe(none)
  await work(db, 'one', ['s'], { ttl: hour })
  expect(await monitor.tick()).toMatchObject({ resolved: [{ kind: 'worker_dead' }], untold: null })
  // The message about it waits for e-mail, and so it will: that nobody takes it is an incident, and no news to this one.
  await db.advance(10 * minute)
  expect((await monitor.tick()).untold).toBeNull()
  const { rows } = await db.pool.query(
    "select subject from leasehold.open_incidents where kind = 'channel_down'",
  )
  expect(rows).toEqual([{ subject: 'email' }])
})

test('what waits for a channel that a monitor used to serve is not told to anybody', async () => {
  const before = await watch(db, mail)
  await before.stop()
  const monitor = await watch(db, null)
  await db.advance(6 * minute)
  await death('one')
  expect((await monitor.tick()).untold).toBeNull()
  await db.advance(6 * minute)
  expect((await monitor.tick()).untold).toBe('alerts by email wait, and no monitor takes them')
  await work(db, 'one', ['s'], { ttl: hour })
  expect((await monitor.tick()).untold).toBe('alerts by email wait, and no monitor takes them')
  await db.pool.query(`select leasehold.set_alert_channel('email', '{"enabled": false}')`)
  expect((await monitor.tick()).untold).toBeNull()
})
