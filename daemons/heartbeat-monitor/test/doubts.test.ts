/**
 * Tries of which nobody knows how they ended count towards the day's cap; what told nobody does not, and what is known is
 * noted although the database is away for a moment.
 *
 * Senders are the real ones (deliver), on a real database; what happens in between is put before a statement of theirs.
 */
import { createServer } from 'node:http'
import { openPool } from '@leasehold/postgres'
import { type Db, putAlertPolicy } from '@leasehold/queue'
import { runMigrations } from 'graphile-worker'
import type { QueryResultRow } from 'pg'
import { beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { listenOnLoopback } from '../../../test/harness/loopback.ts'
import { type Channel, DeliveryError } from '../src/channels/channel.ts'
import { deliver } from '../src/outbox.ts'
import { MailServer } from './mail-server.ts'
import { Proxy } from './proxy.ts'
import { tellings, until } from './telling.ts'
import { Lines, alerts, logOf, watch } from './watching.ts'

const minute = 60_000
const day = 24 * 60 * minute
const pace = { firstMs: 20, maxMs: 50 }
const never = new AbortController().signal

let db: TestDatabase
let mail: MailServer
beforeEach(async ({ onTestFinished }) => {
  db = await createTestDatabase()
  await until(db, '2027-03-01 09:00Z') // far from the hour at which another day of the cap begins
  mail = await new MailServer().start()
  onTestFinished(async () => {
    await mail.stop()
    await db.drop()
  })
})

async function open(kind: string, subject: string): Promise<void> {
  await db.pool.query('select leasehold.open_incident($1, $2, $3)', [kind, subject, `${subject} is wrong`])
}

async function downChannels(): Promise<string[]> {
  const { rows } = await db.pool.query<{ subject: string }>(
    "select subject from leasehold.open_incidents where kind = 'channel_down' order by subject",
  )
  return rows.map(({ subject }) => subject)
}

async function doubts(): Promise<string[]> {
  const { rows } = await db.pool.query<{ reason: string }>('select reason from leasehold.alert_doubts')
  return rows.map(({ reason }) => reason)
}

async function claim(): Promise<string | undefined> {
  const { rows } = await db.pool.query<{ transmission: string }>(
    `select transmission from leasehold.claim_messages('email', '1 minute')`,
  )
  return rows[0]?.transmission
}

async function begin(transmission: string): Promise<boolean> {
  const { rows } = await db.pool.query<{ begun: boolean }>(
    `select leasehold.begin_handover('email', $1, '1 minute') as begun`,
    [transmission],
  )
  return rows[0]!.begun
}

/** `inner`, with something happening before each statement that names `verb`. */
function before(inner: Db, verb: string, happens: () => Promise<void>): Db {
  return {
    async query<R extends QueryResultRow>(statement: Parameters<Db['query']>[0], values?: unknown[]) {
      if ((typeof statement === 'string' ? statement : statement.text).includes(verb)) await happens()
      return inner.query<R>(statement, values)
    },
  }
}

/** A channel that takes everything, and what it took. */
function taker(meanwhile: () => Promise<void> = async () => {}): Channel & { readonly taken: string[] } {
  const taken: string[] = []
  return {
    name: 'email',
    taken,
    async send({ subject }) {
      taken.push(subject)
      await meanwhile()
      return null
    },
  }
}

test('a server that takes mail and hangs up without a word gets no more than the cap', async () => {
  mail.manner = 'swallows'
  await putAlertPolicy(db.pool, { perDay: 3, gapMs: 0 })
  const monitor = await watch(db, mail, { policy: 'as it is' })
  await open('backlog_old', 'a')
  await monitor.tick()
  await monitor.lines.wait('alert.failed', 3)
  // Nothing is due any more, and looks do not ask for it: the day's cap is used up.
  await db.advance(10 * minute)
  await monitor.tick()
  expect((await db.pool.query(`select leasehold.overdue_channels('0') as channel`)).rows).toEqual([])
  expect(await claim()).toBeUndefined()
  expect(mail.mails).toHaveLength(3)
  expect(monitor.lines.named('alert.failed')).toMatchObject([
    { doubtful: true },
    { doubtful: true },
    { doubtful: true },
  ])
  expect(await downChannels()).toEqual(['email'])

  mail.manner = 'accepts'
  await db.advance(day)
  await monitor.tick()
  await monitor.lines.wait('alert.sent')
  await monitor.tick()
  expect(await downChannels()).toEqual([])
})

test('a refused connection and a refused mail are no doubt and use up nothing', async () => {
  mail.manner = 'refuses'
  await putAlertPolicy(db.pool, { perDay: 1, gapMs: 0 })
  const monitor = await watch(db, mail, { policy: 'as it is' })
  await open('backlog_old', 'a')
  await monitor.tick()
  await monitor.lines.wait('alert.failed', 2)
  await mail.stop()
  await monitor.lines.wait('alert.failed', 5)
  expect(monitor.lines.named('alert.failed').every(({ doubtful }) => doubtful === false)).toBe(true)
  mail.manner = 'accepts'
  await mail.start()
  await mail.mail(1)
})

test('a webhook that hears all and never answers is a doubt', async ({ onTestFinished }) => {
  const server = createServer((request, response) => request.resume().on('end', () => response.destroy()))
  onTestFinished(() => void server.close())
  const port = await listenOnLoopback(server)
  const monitor = await watch(db, null, { webhook: { url: `http://127.0.0.1:${port}/`, secret: null } })
  await open('backlog_old', 'a')
  await monitor.tick()
  await monitor.lines.wait('alert.failed')
  expect(monitor.lines.named('alert.failed')[0]).toMatchObject({ doubtful: true })
})

test('a sender that dies over and over while it hands over sends no more often than the cap', async () => {
  await putAlertPolicy(db.pool, { perDay: 2, gapMs: 0 })
  await open('backlog_old', 'a')
  await tellings(db, { held: true })
  for (const taken of [true, true, false]) {
    const transmission = await claim()
    expect(transmission !== undefined).toBe(taken)
    if (transmission !== undefined) expect(await begin(transmission)).toBe(true)
    await db.advance(2 * minute)
  }
  const { rows } = await db.pool.query('select reason from leasehold.alert_doubts')
  expect(rows).toEqual([
    { reason: 'its sender ended without a word' },
    { reason: 'its sender ended without a word' },
  ])
})

test('a sender that dies before it hands over uses up nothing, and its channel is not to blame', async () => {
  await putAlertPolicy(db.pool, { perDay: 1, gapMs: 0 })
  await open('backlog_old', 'a')
  await tellings(db, { held: true })
  for (let n = 0; n < 4; n++) {
    expect(await claim()).toBeDefined()
    await db.advance(2 * minute)
  }
  expect(await doubts()).toEqual([])
  const { rows } = await db.pool.query(
    'select channel from leasehold.alert_channels where failing_since is not null or failures > 0',
  )
  expect(rows).toEqual([])
})

test('a claim that has run out is not handed over once somebody else has it, or once it waits again', async () => {
  await putAlertPolicy(db.pool, { perDay: 1, gapMs: 0 })
  await open('backlog_old', 'a')
  await tellings(db, { held: true })
  const first = (await claim())!
  await db.advance(2 * minute)
  const second = (await claim())!
  expect([await begin(first), await begin(second)]).toEqual([false, true])
  // The doubt uses up the cap: what waits is given to nobody.
  await db.advance(2 * minute)
  expect(await claim()).toBeUndefined()
  expect(await doubts()).toHaveLength(1)
  expect(await begin(second)).toBe(false)
})

test('a sender whose claim ran out before it could hand over sends nothing: another one has sent it', async () => {
  await open('backlog_old', 'a')
  await tellings(db, { held: true })
  const channel = taker()
  const lines = new Lines()
  const log = logOf(lines)
  const slow = before(db.pool, 'begin_handover', async () => {
    await db.advance(2 * minute)
    await deliver(db.pool, channel, pace, log, never)
  })
  await deliver(slow, channel, pace, log, never)
  expect(channel.taken).toHaveLength(1)
  expect(await doubts()).toEqual([])
  expect(lines.named('alert.sent')).toHaveLength(1)
})

test('what a sender has to read it reads before it claims: where that fails nothing was tried', async () => {
  await open('backlog_old', 'a')
  await tellings(db, { held: true })
  const gone = before(db.pool, 'current_database', () => Promise.reject(new Error('gone')))
  await expect(deliver(gone, taker(), pace, logOf(new Lines()), never)).rejects.toThrow('gone')
  expect(await alerts(db)).toMatchObject([{ sent: false, tries: 0 }])
})

test('what was taken while the database went away is noted when it answers, and is no doubt', async ({
  onTestFinished,
}) => {
  const proxy = new Proxy(db.url)
  onTestFinished(() => proxy.cut())
  const pool = openPool({ connectionString: await proxy.start(), applicationName: 'sender', max: 2 })
  onTestFinished(() => pool.end())
  await open('backlog_old', 'a')
  await tellings(db, { held: true })
  let notes = 0
  const through = before(pool, 'messages_sent', async () => {
    notes += 1
    if (notes === 2) await proxy.mend()
  })
  await deliver(
    through,
    taker(() => proxy.cut()),
    pace,
    logOf(new Lines()),
    never,
  )
  expect(notes).toBe(2)
  expect(await alerts(db)).toMatchObject([{ sent: true, tries: 1 }])
  expect(await doubts()).toEqual([])
})

test('what was not taken while the database went away is no doubt either', async ({ onTestFinished }) => {
  const proxy = new Proxy(db.url)
  onTestFinished(() => proxy.cut())
  // The job for the next try needs its tables.
  await runMigrations({ connectionString: db.url })
  const pool = openPool({ connectionString: await proxy.start(), applicationName: 'sender', max: 2 })
  onTestFinished(() => pool.end())
  await open('backlog_old', 'a')
  await tellings(db, { held: true })
  let notes = 0
  const through = before(pool, 'messages_failed', async () => {
    notes += 1
    if (notes === 2) await proxy.mend()
  })
  const refusing: Channel = {
    name: 'email',
    async send() {
      await proxy.cut()
      throw new DeliveryError('no connection')
    },
  }
  const lines = new Lines()
  await deliver(through, refusing, pace, logOf(lines), never)
  expect(notes).toBe(2)
  expect(await doubts()).toEqual([])
  expect(lines.named('alert.failed')).toMatchObject([{ doubtful: false, reason: 'no connection' }])
  expect(await alerts(db)).toMatchObject([{ sent: false, tries: 1, last_error: 'no connection' }])
})
