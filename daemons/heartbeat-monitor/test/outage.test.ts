/**
 * The database goes away and comes back: the monitor neither ends nor floods its log, and works on.
 */
import { expect, test } from 'vitest'
import { createTestDatabase } from '../../../test/harness/database.ts'
import { MailServer } from './mail-server.ts'
import { Proxy } from './proxy.ts'
import { beat, stage, ttlMs, watch, work } from './watching.ts'

test('a monitor outlives an outage, tells it once, gives grace, and mails afterwards', async ({
  onTestFinished,
}) => {
  const db = await createTestDatabase()
  onTestFinished(() => db.drop())
  const mail = await new MailServer().start()
  onTestFinished(() => mail.stop())
  const proxy = new Proxy(db.url)
  onTestFinished(() => proxy.cut())
  await stage(db, 's')
  const looks: { alertIds: readonly string[] }[] = []
  const monitor = await watch(db, mail, {
    connectionString: await proxy.start(),
    intervalMs: 100,
    onTick: (found) => looks.push(found),
  })
  await expect.poll(() => looks.length).toBeGreaterThan(1)
  const worker = await work(db, 'one', ['s'])
  await db.pool.query('delete from leasehold.monitor_gaps')

  await proxy.cut()
  await monitor.lines.wait('database.away')
  // Longer than the TTL by the database's clock: a look right after it must not take the worker for dead.
  await db.advance(ttlMs + 1)
  await proxy.mend()
  await monitor.lines.wait('database.answers')
  const { length } = looks
  await expect.poll(() => looks.length).toBeGreaterThan(length + 1)
  expect(looks.filter((found) => found.alertIds.length > 0)).toEqual([])
  const gaps = await db.pool.query('select from leasehold.monitor_gaps')
  expect(gaps.rowCount).toBeGreaterThan(0)
  expect(monitor.lines.named('database.away')).toHaveLength(1)

  await beat(db, worker)
  await db.pool.query('delete from leasehold.monitor_gaps')
  await db.pool.query("update leasehold.workers set expires_at = leasehold.clock() - interval '1 second'")

  expect((await mail.mail(1)).text).toContain('DEAD  one')
})
