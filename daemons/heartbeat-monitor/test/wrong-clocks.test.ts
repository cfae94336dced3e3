/**
 * Alerts under a database clock that goes a week ahead and back: what it wrote meanwhile holds nothing back afterwards.
 * Each claim is about one stored moment that used to be waited for.
 */
import { type AlertPolicyInput, putAlertPolicy } from '@leasehold/queue'
import { beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { tellings, until } from './telling.ts'
import { watch } from './watching.ts'

const minute = 60_000
const hour = 60 * minute
const week = 7 * 24 * hour

let db: TestDatabase
beforeEach(async ({ onTestFinished }) => {
  db = await createTestDatabase()
  onTestFinished(() => db.drop())
})

async function begin(policy: AlertPolicyInput = {}): Promise<void> {
  await until(db, '2027-03-01 09:00Z')
  await putAlertPolicy(db.pool, policy)
}

async function open(subject: string, kind = 'task_quarantined'): Promise<void> {
  await db.pool.query('select leasehold.open_incident($1, $2, $2)', [kind, subject])
}

/** What happens while the clock is a week ahead. */
async function ahead(happens: () => Promise<unknown>): Promise<void> {
  await db.advance(week)
  await happens()
  await db.advance(-week)
}

async function told(options: Parameters<typeof tellings>[1] = {}): Promise<string[]> {
  return (await tellings(db, options)).flatMap(({ purpose, subjects }) => [`${purpose} ${subjects.join()}`])
}

test('a message written in the future makes the next one wait for no gap, and uses up no cap', async () => {
  await begin({ perDay: 2, reserve: 0, gapMs: hour })
  await ahead(async () => {
    for (const subject of ['a', 'b']) {
      await open(subject)
      await told()
      await db.advance(2 * hour)
    }
    await db.advance(-4 * hour)
  })
  await open('c')
  // With reminders of what was told then: nobody knows how long ago that is.
  expect(await told()).toEqual(['alert c,a,b'])
})

test('an incident that opened in the future and news of then are told', async () => {
  await begin()
  await ahead(() => open('opened then'))
  expect(await told()).toEqual(['alert opened then'])
})

test('a digest of the future does not stand for the one of tomorrow, and news of then are in it', async () => {
  await begin({ perDay: 5 })
  await ahead(async () => {
    await open('then', 'tasks_failing')
    expect(await told()).toEqual([])
    await db.advance(24 * hour)
    await told()
    await open('later', 'tasks_failing')
    await told()
    await db.advance(-24 * hour)
  })
  await until(db, '2027-03-02 08:00Z')
  expect((await told()).join()).toMatch(/^digest .*later/)
})

test('a reminder is due although it was told in the future', async () => {
  await begin({ perDay: 5 })
  await ahead(async () => {
    await open('stays', 'backlog_old')
    await told()
  })
  expect((await tellings(db)).flatMap(({ whats }) => whats)).toEqual(['reminder'])
  await db.advance(2 * minute)
  expect(await told()).toEqual([])
})

test('a message claimed or put off in the future is handed over, and its channel is not left alone', async () => {
  await begin({ perDay: 10 })
  await open('a')
  await told({ held: true })
  const claim = () =>
    db.pool.query<{ id: string; transmission: string }>(
      `select * from leasehold.claim_messages('email', '1 minute')`,
    )
  await ahead(async () => {
    const { rows } = await claim()
    await db.pool.query(`select leasehold.messages_failed('email', $1, 'busy', '1 hour', false, true)`, [
      rows[0]!.transmission,
    ])
  })
  const due = () => db.pool.query(`select leasehold.overdue_channels('30 seconds') as channel`)
  expect((await due()).rows).toEqual([{ channel: 'email' }])
  expect((await claim()).rows).toHaveLength(1)
  await db.pool.query(`update leasehold.alerts set claimed_until = claimed_until + interval '7 days'`)
  expect((await claim()).rows).toHaveLength(1)
})

test('a channel served in the future is served only while a monitor says so', async () => {
  await begin()
  await ahead(() => told({ channels: ['telegram'] }))
  await open('a')
  const channels = (await tellings(db, { channels: ['email'] })).map(({ channel }) => channel)
  expect(channels).toEqual(['email'])
})

test('a duty whose last turn a crontab noted in the future takes its turns again', async () => {
  const monitor = await watch(db, null)
  const turns = async (): Promise<number[]> => {
    const { rows } = await db.pool.query<{ future: number; known: number }>(
      `select count(*)::integer as known, (count(*) filter (where last_execution > now()))::integer as future
       from graphile_worker._private_known_crontabs`,
    )
    return [rows[0]!.known, rows[0]!.future]
  }
  await expect.poll(turns).toEqual([8, 0])
  await monitor.stop()
  await db.pool.query(
    `update graphile_worker._private_known_crontabs set last_execution = now() + interval '7 days'`,
  )
  await watch(db, null)
  await expect.poll(turns).toEqual([8, 0])
})
