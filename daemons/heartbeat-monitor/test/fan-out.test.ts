/**
 * One alert and several channels: each gets it, each fails by itself, and one that is down is told through the others.
 */
import { once } from 'node:events'
import { type ServerResponse, createServer } from 'node:http'
import { retryAlerts } from '@leasehold/queue'
import { beforeEach, expect, onTestFinished, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { listenOnLoopback } from '../../../test/harness/loopback.ts'
import { MailServer } from './mail-server.ts'
import { stage, ttlMs, watch, work } from './watching.ts'

let db: TestDatabase
let mail: MailServer
beforeEach(async () => {
  db = await createTestDatabase()
  mail = await new MailServer().start()
  onTestFinished(() => mail.stop())
  onTestFinished(() => db.drop())
  await stage(db, 's')
})

/** An HTTP server on loopback whose answer may be changed; counts what it was asked. */
async function hook(answer: (response: ServerResponse) => void) {
  const state = { answer, url: '', asked: 0 }
  const http = createServer((request, response) => {
    request.resume().on('end', () => {
      state.asked += 1
      state.answer(response)
    })
  })
  state.url = `http://127.0.0.1:${await listenOnLoopback(http)}`
  onTestFinished(async () => {
    http.closeAllConnections()
    http.close()
    await once(http, 'close')
  })
  return state
}

const status = (code: number) => (response: ServerResponse) =>
  void response.writeHead(code).end('{"ok":true}')

async function death(slot: string): Promise<void> {
  await work(db, slot, ['s'])
  await db.advance(ttlMs + 1)
}

async function rows(): Promise<unknown[]> {
  const found = await db.pool.query(
    `select channel, subject, sent_at is not null as sent, refused_at is not null as refused
    from leasehold.alerts order by id`,
  )
  return found.rows
}

test('an alert goes out through every channel that is configured', async () => {
  const [telegram, webhook] = [await hook(status(200)), await hook(status(202))]
  const monitor = await watch(db, mail, {
    telegram: { token: '1:made-up-token', chatId: '1', baseUrl: telegram.url },
    webhook: { url: webhook.url, secret: null },
    command: { argv: ['/bin/cat'], env: {} },
  })
  await death('one')
  expect((await monitor.tick()).alertIds).toHaveLength(4)
  await monitor.lines.wait('alert.sent', 4)
  expect([mail.mails.length, telegram.asked, webhook.asked]).toEqual([1, 1, 1])
  const subject = 'Leasehold: 1 worker died, no task was held'
  expect(await rows()).toEqual(
    ['command', 'email', 'telegram', 'webhook'].map((channel) => ({
      channel,
      subject,
      sent: true,
      refused: false,
    })),
  )
})

test('a channel that is down holds up no other, is told through them, and catches up when it is back', async () => {
  const webhook = await hook(status(503))
  const monitor = await watch(db, mail, { webhook: { url: webhook.url, secret: null } })
  await death('one')
  await monitor.tick()
  await mail.mail(1)
  await monitor.lines.wait('alert.failed', 3)

  await monitor.tick()
  const told = await mail.mail(2)
  expect(told.subject).toContain('Leasehold: alerts by webhook do not get through')
  expect(told.text).toContain('the webhook answered 503')
  expect(told.text).toContain('npx leasehold alerts test --channel webhook')

  webhook.answer = status(200)
  await expect.poll(async () => (await rows()).every((row) => (row as { sent: boolean }).sent)).toBe(true)
  expect((await monitor.tick()).resolved.map(({ kind }) => kind)).toContain('channel_down')
  expect((await mail.mail(3)).text).toContain('alerts by webhook get through again')
})

test('what is refused for good is told elsewhere at once, kept, and sent again when somebody asks', async () => {
  const webhook = await hook(status(404))
  const monitor = await watch(db, mail, { webhook: { url: webhook.url, secret: null } })
  await death('one')
  await monitor.tick()
  await monitor.lines.wait('alert.failed')
  await monitor.tick()
  expect((await mail.mail(2)).text).toContain('npx leasehold alerts retry')
  expect(webhook.asked).toBe(1)
  expect(await rows()).toContainEqual(
    expect.objectContaining({ channel: 'webhook', refused: true, sent: false }),
  )

  webhook.answer = status(200)
  expect(await retryAlerts(db.pool, 'webhook')).toBe(1)
  await db.advance(60_000)
  await monitor.tick()
  await expect.poll(() => webhook.asked).toBe(2)
})

test('a channel that asks to be left alone is left alone, also by new alerts', async () => {
  const telegram = await hook(
    (response) =>
      void response
        .writeHead(429)
        .end('{"ok":false,"description":"slow down","parameters":{"retry_after":600}}'),
  )
  const monitor = await watch(db, null, {
    telegram: { token: '1:made-up-token', chatId: '1', baseUrl: telegram.url },
  })
  await death('one')
  await monitor.tick()
  await monitor.lines.wait('alert.failed')
  await death('two')
  await monitor.tick()
  const { rows: due } = await db.pool.query<{ n: number }>(
    `select count(*)::int as n from leasehold.claim_messages('telegram', '1 minute')`,
  )
  expect(due[0]!.n).toBe(0)
  expect(telegram.asked).toBe(1)

  telegram.answer = status(200)
  await db.advance(600_000)
  await monitor.tick()
  await monitor.lines.wait('alert.sent')
  expect(telegram.asked).toBe(2)
})

test('an incident of the release before, which only mail could have, is over when the mail has gone', async () => {
  await db.pool.query(
    `select leasehold.open_incident('mail_undeliverable', 'smtp', 'mail could not be delivered')`,
  )
  const monitor = await watch(db, mail)
  const { rows: open } = await db.pool.query('select from leasehold.open_incidents')
  expect(open).toEqual([])
  expect((await monitor.tick()).alertIds).toEqual([])
})

test('somebody outside is told of each look that succeeded, and of none that failed or waited for it', async () => {
  const answers: ServerResponse[] = []
  const ping = await hook((response) => void answers.push(response))
  const startedAt = performance.now()
  const looks: unknown[] = []
  const monitor = await watch(db, null, {
    intervalMs: 100,
    pingUrl: `${ping.url}/canary-secret`,
    onTick: (found) => looks.push(found),
  })
  await expect.poll(() => answers.length).toBeGreaterThan(0)
  const looked = looks.length
  await expect.poll(() => looks.length).toBeGreaterThan(looked + 2)
  // Looks do not wait for one that is on its way, and no second one is sent until it is given up, after five seconds.
  expect(ping.asked).toBeLessThanOrEqual(1 + Math.floor((performance.now() - startedAt) / 5_000))
  ping.answer = status(200)
  for (const answer of answers) answer.writeHead(500).end()
  await monitor.lines.wait('ping.failed')
  await monitor.lines.wait('ping.answers')
  expect(JSON.stringify(monitor.lines.all)).not.toContain('canary-secret')

  await db.pool.query('alter function leasehold.monitor_tick rename to gone')
  await monitor.lines.wait('duty.failed')
  const { asked } = ping
  await db.pool.query('alter function leasehold.gone rename to monitor_tick')
  await expect.poll(() => ping.asked).toBeGreaterThan(asked)
})

test('workers that are missing are an incident, a message and a recovery', async () => {
  await stage(db, 'verify', { expected: 3 })
  await db.advance(60_001)
  const slots = ['verify@1', 'verify@2']
  for (const slot of slots) await work(db, slot, ['verify'])
  const monitor = await watch(db, mail)
  expect((await mail.mail(1)).subject).toBe('Leasehold: stage verify has 2 of 3 workers')
  await work(db, 'verify@3', ['verify'])
  expect((await monitor.tick()).resolved).toMatchObject([{ kind: 'workers_missing' }])
  expect((await mail.mail(2)).subject).toBe('Leasehold: resolved: stage verify has its 3 workers again')
})
