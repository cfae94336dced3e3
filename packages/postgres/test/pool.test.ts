/**
 * Pools against a real server: lost sessions, a demoted primary, a link that goes silent.
 */
import { ConfigError } from '@leasehold/queue'
import { isFailover, openPool } from '@leasehold/postgres'
import { type Socket, connect, createServer } from 'node:net'
import type { Pool } from 'pg'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { listenOnLoopback } from '../../../test/harness/loopback.ts'

let db: TestDatabase
let pool: Pool
let lost: Error[]

beforeAll(async () => {
  db = await createTestDatabase({ empty: true })
})
afterAll(() => db.drop())
beforeEach(() => {
  lost = []
  pool = openPool({
    connectionString: db.url,
    applicationName: 'pool test',
    max: 4,
    onError: (error) => lost.push(error),
  })
  return () => (pool.ended ? undefined : pool.end())
})

async function backend(client: { query: Pool['query'] }, queryTimeoutMs?: number): Promise<number> {
  // `pg` knows the limit of a single query, its types do not.
  const limit: object = queryTimeoutMs === undefined ? {} : { query_timeout: queryTimeoutMs }
  const { rows } = await client.query<{ pid: number }>({ text: 'select pg_backend_pid() as pid', ...limit })
  return rows[0]?.pid ?? 0
}

/** Opens all four connections and answers with their process ids. */
async function openAll(): Promise<number[]> {
  const clients = await Promise.all([1, 2, 3, 4].map(() => pool.connect()))
  const pids = await Promise.all(clients.map((client) => backend(client)))
  for (const client of clients) client.release()
  return pids
}

async function failReadOnly(client: { query: Pool['query'] }): Promise<void> {
  await client.query('begin read only')
  await expect(client.query('create table nowhere ()')).rejects.toMatchObject({ code: '25006' })
  await client.query('rollback')
}

test('idle, checked-out and listening sessions ended by the server leave the process and the pool working', async () => {
  const [idle, busy, listening] = await Promise.all([pool.connect(), pool.connect(), pool.connect()])
  await listening.query('listen something')
  const pids = await Promise.all([idle, busy, listening].map((client) => backend(client)))
  idle.release()
  const ends = [busy, listening].map((client) => new Promise((ended) => client.once('end', ended)))
  await db.pool.query('select pg_terminate_backend(pid) from unnest($1::int[]) pid', [pids])
  await Promise.all(ends)
  busy.release()
  listening.release()
  expect(await backend(pool)).toBeGreaterThan(0)
  expect(lost.length).toBeGreaterThan(0)
})

test('after one read-only answer no connection opened before is used again', async () => {
  const before = await openAll()
  const witness = await pool.connect()
  await failReadOnly(witness)
  witness.release()
  const after = await openAll()
  expect(after.filter((pid) => before.includes(pid))).toEqual([])
})

test('a connection that was busy during the failover is closed when it is released, even while others wait for one', async () => {
  const clients = await Promise.all([1, 2, 3, 4].map(() => pool.connect()))
  const before = await Promise.all(clients.map((client) => backend(client)))
  const waiting = [backend(pool), backend(pool), backend(pool)]
  const [witness, ...others] = clients
  if (witness === undefined) throw new Error('no client')
  await failReadOnly(witness)
  for (const client of [witness, ...others]) client.release()
  const after = await Promise.all(waiting)
  expect(after.filter((pid) => before.includes(pid))).toEqual([])
})

test('an old connection that fails again does not discard those opened since', async () => {
  const [first, second] = await Promise.all([pool.connect(), pool.connect()])
  await failReadOnly(first)
  first.release()
  const fresh = await backend(pool)
  await failReadOnly(second)
  second.release()
  expect(await backend(pool)).toBe(fresh)
})

test('a connection that was asked for by callback may be given back twice, as graphile-worker does with a broken one', async () => {
  const done = await new Promise<(broken?: boolean) => void>((resolve, reject) => {
    pool.connect((error, _client, release) => (error ? reject(error) : resolve(release)))
  })
  done(true)
  expect(() => done()).not.toThrow()
  expect(pool.totalCount).toBe(0)
  expect(await backend(pool)).toBeGreaterThan(0)
})

test('an error of a statement keeps the connections', async () => {
  const before = await backend(pool)
  await expect(pool.query('select 1 / 0')).rejects.toMatchObject({ code: '22012' })
  await expect(pool.query('select no_such_thing')).rejects.toMatchObject({ code: '42703' })
  const client = await pool.connect()
  await expect(client.query('select no_such_thing')).rejects.toThrow()
  client.release()
  // pool.query closes the connection it failed on; the others and those after it stay.
  const after = await backend(pool)
  expect(await backend(pool)).toBe(after)
  expect(before).toBeGreaterThan(0)
})

test('a query on a link that went silent is given up with its connection, and the next one uses another', async () => {
  const proxy = await silentProxy(db.url)
  const throughProxy = openPool({
    connectionString: proxy.url,
    applicationName: 'proxied',
    max: 1,
    queryTimeoutMs: 300,
  })
  expect(await backend(throughProxy, 45_000)).toBeGreaterThan(0)
  proxy.silence()
  await expect(throughProxy.query('select 1')).rejects.toThrow(/timeout/i)
  proxy.speak()
  expect(await backend(throughProxy, 45_000)).toBeGreaterThan(0)
  await throughProxy.end()
  proxy.close()
})

test('a server that is not there is an error within the connect timeout, not a crash', async () => {
  const nobody = openPool({ connectionString: 'postgres://u:p@127.0.0.1:1/x', applicationName: 'nobody' })
  await expect(nobody.query('select 1')).rejects.toMatchObject({ code: 'ECONNREFUSED' })
  await nobody.end()
})

function limited(statementTimeoutMs: number): Pool {
  return openPool({
    connectionString: db.url,
    applicationName: 'the name',
    statementTimeoutMs,
    pipeline: true,
  })
}

test('statement_timeout and application_name reach the server', async () => {
  const hasty = limited(50)
  await expect(hasty.query('select pg_sleep(100)')).rejects.toMatchObject({ code: '57014' })
  await hasty.end()
  const patient = limited(3_600_000)
  const { rows } = await patient.query(
    "select current_setting('application_name') as name, current_setting('statement_timeout') as timeout",
  )
  expect(rows).toEqual([{ name: 'the name', timeout: '1h' }])
  await patient.end()
})

test.each(['mysql://root:secret@h/x', 'postgres://u:secret@:bad:port/x', 'secret'])(
  'an address that cannot be parsed is a configuration error which does not repeat it (%#)',
  (connectionString) => {
    let thrown: unknown
    try {
      openPool({ connectionString, applicationName: 'x' })
    } catch (error) {
      thrown = error
    }
    expect(thrown).toBeInstanceOf(ConfigError)
    expect(JSON.stringify(thrown, Object.getOwnPropertyNames(thrown))).not.toContain('secret')
  },
)

test.each([
  ['25006', true],
  ['57P01', true],
  ['57P03', true],
  ['08006', true],
  ['08P01', true],
  ['57014', false],
  ['40001', false],
  [undefined, false],
])('SQLSTATE %s means a failover: %s', (code, expected) => {
  expect(isFailover(Object.assign(new Error('x'), { code }))).toBe(expected)
})

interface SilentProxy {
  readonly url: string
  silence(): void
  speak(): void
  close(): void
}

/** Forwards to the server; after `silence` it swallows what comes, as a half-open link does. */
async function silentProxy(target: string): Promise<SilentProxy> {
  const { hostname, port } = new URL(target)
  const sockets = new Set<Socket>()
  let silent = false
  const server = createServer((client) => {
    const upstream = connect(Number(port), hostname)
    for (const [from, to] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(from)
      from.on('data', (chunk: Buffer) => silent || to.write(chunk))
      from.on('close', () => silent || to.destroy())
      from.on('error', () => {})
    }
  })
  const url = new URL(target)
  url.port = String(await listenOnLoopback(server))
  return {
    url: url.href,
    silence: () => (silent = true),
    speak: () => (silent = false),
    close: () => {
      server.close()
      for (const socket of sockets) socket.destroy()
    },
  }
}
