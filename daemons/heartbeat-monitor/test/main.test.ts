/**
 * The daemon as systemd runs it: a process of its own, with an environment, signals and exit codes. What it has in common
 * with the other daemons is tested in test/every-daemon.test.ts.
 */
import { beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { type TestProcess, spawnProcess } from '../../../test/harness/processes.ts'
import { MailServer } from './mail-server.ts'
import { claim, stage, submit, ttlMs, work } from './watching.ts'

let db: TestDatabase
beforeEach(async ({ onTestFinished }) => {
  db = await createTestDatabase()
  onTestFinished(() => db.drop())
})

function daemon(env: Record<string, string | undefined>): TestProcess {
  return spawnProcess({ script: 'daemons/heartbeat-monitor/src/main.ts', env })
}

test('it mails a dead worker through the server that the environment names, and ends with 0 on SIGTERM', async ({
  onTestFinished,
}) => {
  const mail = await new MailServer().start()
  onTestFinished(() => mail.stop())
  await stage(db, 'company_research')
  // Past the grace that a server which has just started gives to everybody.
  await db.advance(2 * ttlMs)
  const monitor = daemon({
    DATABASE_URL: db.url,
    HEARTBEAT_MONITOR_INTERVAL: '1',
    HEARTBEAT_MONITOR_ALERT_EMAIL: 'ops@shop.example,owner@shop.example',
    SMTP_HOST: '127.0.0.1',
    SMTP_PORT: String(mail.port),
    SMTP_USER: 'mailer',
    SMTP_PASSWORD: 'canary-password',
    EMAIL_FROM: 'Leasehold <alerts@shop.example>',
  })
  await monitor.waitForLine(/"event":"monitor.started"/)
  await expect.poll(async () => (await db.pool.query('select from leasehold.monitors')).rowCount).toBe(1)
  const worker = await work(db, 'company_research@1', ['company_research'])
  await submit(db, 'company_research', 'Research Harbour Hotels')
  await claim(db, worker, 'company_research')
  await db.pool.query('delete from leasehold.monitor_gaps')
  await db.pool.query("update leasehold.workers set expires_at = leasehold.clock() - interval '1 second'")

  const { subject, to } = await mail.mail(1)
  expect(subject).toBe('Leasehold: 1 worker died, 1 task released')
  expect(to?.map((one) => one.address)).toEqual(['ops@shop.example', 'owner@shop.example'])

  monitor.kill('SIGTERM')
  expect(await monitor.exit).toEqual({ code: 0, signal: null })
  expect(monitor.output()).toContain('"event":"monitor.stopped"')
  expect(monitor.output()).not.toContain('canary-password')
  const { rows } = await db.pool.query('select stopped_at is not null as stopped from leasehold.monitors')
  expect(rows).toEqual([{ stopped: true }])
})

test('a wrong configuration ends with 2 and names every problem', async () => {
  const monitor = daemon({
    DATABASE_URL: db.url,
    HEARTBEAT_MONITOR_INTERVAL: 'often',
    HEARTBEAT_MONITOR_ALERT_EMAIL: 'nobody',
  })

  expect(await monitor.exit).toEqual({ code: 2, signal: null })
  expect(monitor.output()).toMatch(/HEARTBEAT_MONITOR_INTERVAL[\s\S]*HEARTBEAT_MONITOR_ALERT_EMAIL/)
})
