/**
 * Pools behind a real PgBouncer in transaction mode: no named statement, no session, no default of the login is relied on.
 */
import { Listener, openPool } from '@leasehold/postgres'
import { inTransaction } from '@leasehold/queue'
import { Client, type Pool } from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { type Pgbouncer, startPgbouncer } from '../../../test/harness/pgbouncer.ts'

let db: TestDatabase
let pooler: Pgbouncer
let pool: Pool

beforeAll(async () => {
  db = await createTestDatabase({ empty: true })
  await db.pool.query('create table kept (n integer)')
  for (const setting of [
    "default_transaction_isolation = 'serializable'",
    'default_transaction_read_only = on',
    "datestyle = 'German'",
    "statement_timeout = '10min'",
    'search_path = shop, public',
  ])
    await db.pool.query(`alter database ${db.name} set ${setting}`)
  pooler = await startPgbouncer(db.url)
  pool = openPool({ connectionString: pooler.url, applicationName: 'test', max: 3 })
})
afterAll(async () => {
  await pool.end()
  await pooler.stop()
  await db.drop()
})

/** Three transactions at once: from here on the pooler has three sessions and takes them in turns. */
async function openSessions(): Promise<void> {
  const clients = await Promise.all([1, 2, 3].map(() => pool.connect()))
  await Promise.all(clients.map((client) => client.query('begin')))
  await Promise.all(clients.map((client) => client.query('commit')))
  for (const client of clients) client.release()
}

test('named statements of an ordinary connection fail there: the ground for all of this', async () => {
  await openSessions()
  const ordinary = new Client({ connectionString: pooler.url })
  await ordinary.connect()
  const said: string[] = []
  for (let i = 0; i < 4; i++) {
    await ordinary.query({ name: 'asked', text: 'select 1' }).catch((error) => said.push(String(error)))
  }
  await ordinary.end()
  expect(said.join()).toMatch(/prepared statement "asked" does not exist/)
})

test.each(['', '?pooler=transaction'])(
  'a named statement works in whatever session it lands (%s)',
  async (word) => {
    const one = openPool({ connectionString: pooler.url + word, applicationName: 'one', max: 1 })
    await openSessions()
    const pids = new Set<number>()
    for (let i = 0; i < 6; i++) {
      const { rows } = await one.query<{ pid: number }>({
        name: 'asked',
        text: 'select pg_backend_pid() as pid',
      })
      pids.add(rows[0]!.pid)
    }
    await one.end()
    expect(pids.size).toBe(3)
  },
)

const modes = `select current_setting('transaction_isolation') as isolation, current_setting('transaction_read_only') as read_only,
  current_setting('search_path') as path, current_setting('statement_timeout') as timeout`
const pinned = { isolation: 'read committed', read_only: 'off', path: 'pg_catalog', timeout: '0' }

test('a statement that stands alone runs under the pinned settings and is committed when it answers', async () => {
  expect((await pool.query(modes)).rows).toEqual([pinned])
  await pool.query({ text: 'insert into public.kept values ($1)', values: [1] })
  expect((await db.pool.query('select n from kept')).rows).toEqual([{ n: 1 }])
  const { rows } = await pool.query<{ at: Date }>("select timestamptz '2026-03-04 05:06:07+00' as at")
  expect(rows[0]!.at.toISOString()).toBe('2026-03-04T05:06:07.000Z')
})

test('so does a transaction, however it begins, and what it leaves open is decided', async () => {
  for (const begin of ['begin', 'BEGIN WORK', 'start transaction', 'begin isolation level read committed']) {
    const client = await pool.connect()
    await client.query(begin)
    expect((await client.query(modes)).rows).toEqual([pinned])
    await client.query('commit')
    client.release()
  }
  const client = await pool.connect()
  await client.query('begin isolation level repeatable read read only')
  expect((await client.query(modes)).rows).toEqual([
    { ...pinned, isolation: 'repeatable read', read_only: 'on' },
  ])
  await client.query('commit')
  client.release()
})

test('a transaction stays one: what it did vanishes with a rollback, also behind a savepoint', async () => {
  const failing = inTransaction(pool, async (tx) => {
    await tx.query('insert into public.kept values (2)')
    await tx.query('savepoint here')
    await expect(tx.query('select 1 / 0')).rejects.toMatchObject({ code: '22012' })
    await tx.query('rollback to savepoint here')
    await tx.query('insert into public.kept values (3)')
    throw new Error('changed my mind')
  })
  await expect(failing).rejects.toThrow('changed my mind')
  expect((await db.pool.query('select n from kept where n in (2, 3)')).rows).toEqual([])
})

test('a statement that fails says why and leaves nothing open; the next one works', async () => {
  await expect(pool.query('insert into public.kept values ($1)', ['x'])).rejects.toMatchObject({
    code: '22P02',
  })
  await expect(pool.query('select * from public.nowhere')).rejects.toMatchObject({ code: '42P01' })
  expect((await pool.query('select count(*)::int as n from public.kept')).rows).toEqual([{ n: 1 }])
  const { rows } = await db.pool.query(
    "select from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'",
  )
  expect(rows).toEqual([])
})

test('LISTEN does nothing there, and a statement that bears no transaction gets none', async () => {
  await pool.query('listen something')
  await pool.query('vacuum public.kept')
  for (let i = 0; i < 6; i++) {
    expect((await pool.query('select pg_listening_channels()')).rows).toEqual([])
  }
})

test('nothing of it stays in the sessions that others are given', async () => {
  await openSessions()
  const other = new Client({ connectionString: pooler.url })
  await other.connect()
  const paths = new Set<string>()
  for (let i = 0; i < 3; i++) {
    const { rows } = await other.query<{ path: string }>("select current_setting('search_path') as path")
    paths.add(rows[0]!.path)
  }
  await other.end()
  expect([...paths]).toEqual(['shop, public'])
})

test('a listener notices that nothing can be heard there and keeps no connection', async () => {
  const listener = new Listener({
    connectionString: pooler.url,
    applicationName: 'listener',
    channels: ['something'],
    wake: () => {},
  })
  await listener.over
  expect(listener.hearing).toBe(false)
  await listener.stop()
})
