/**
 * The server as strangers meet it: what it refuses and in which form, who needs the token, and how it closes.
 */
import { once } from 'node:events'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { Metrics, openRoom, type Overview, SharedRead } from '@leasehold/daemon-control'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { openTestRoom } from './scraping.ts'

const token = 'made-up-token-of-thirty-two-signs'
let db: TestDatabase
let open: Awaited<ReturnType<typeof openTestRoom>>
let guarded: Awaited<ReturnType<typeof openTestRoom>>
beforeAll(async () => {
  db = await createTestDatabase()
  open = await openTestRoom(db.url)
  guarded = await openTestRoom(db.url, token)
})
afterAll(async () => {
  await Promise.all([open.close(), guarded.close()])
  await db.drop()
})

const ask = (path: string, init: RequestInit = {}, { room } = open): Promise<Response> =>
  fetch(`http://${room.address}${path}`, init)

/** An answer serves for a second, so a change is seen a moment later. */
const untilStatus = (path: string, status: number): Promise<unknown> =>
  expect.poll(async () => (await ask(path)).status).toBe(status)

async function errorOf(response: Response): Promise<[number, unknown]> {
  const body = (await response.json()) as { error: { code: string; message: string; hint: string } }
  expect(Object.keys(body)).toEqual(['error'])
  expect(body.error).toEqual({ code: expect.any(String), message: expect.any(String), hint: expect.any(String) }) // prettier-ignore
  return [response.status, body.error.code]
}

/** What comes back for bytes that need not be HTTP. */
async function raw(bytes: string): Promise<string> {
  const [host, port] = open.room.address.split(':')
  const socket = connect(Number(port), host)
  socket.write(bytes)
  return text(socket)
}

/** The answer to a GET with this Host header. */
const asking = (host: string, path = '/health'): Promise<string> =>
  raw(`GET ${path} HTTP/1.1\r\nhost: ${host}\r\nconnection: close\r\n\r\n`)

test('every refusal has one form, with what to do instead', async () => {
  expect(await errorOf(await ask('/'))).toEqual([404, 'NOT_FOUND'])
  expect(await errorOf(await ask('/metrics/'))).toEqual([404, 'NOT_FOUND'])
  for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS', 'PROPFIND']) {
    const response = await ask('/metrics', { method })
    expect(response.headers.get('allow')).toBe('GET, HEAD')
    expect(await errorOf(response)).toEqual([405, 'METHOD_NOT_ALLOWED'])
  }
  const body = '{"not": "read"}'
  const headers = { 'content-type': 'application/json' }
  expect(await errorOf(await ask('/health', { method: 'POST', body, headers }))).toEqual([405, 'METHOD_NOT_ALLOWED']) // prettier-ignore
  expect(await errorOf(await ask('/nothing', { method: 'POST', body, headers }))).toEqual([404, 'NOT_FOUND'])
  expect(await raw('GET /%zz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n')).toMatch(/^HTTP\/1.1 400 [^]*"code":"BAD_REQUEST"/) // prettier-ignore
  expect(await raw('hello\r\n\r\n')).toMatch(/^HTTP\/1.1 400 [^]*"code":"BAD_REQUEST"/)
  expect(await raw(`GET /${'a'.repeat(9_000)} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n`)).toMatch(/^HTTP\/1.1 431 [^]*"code":"TOO_LARGE"/) // prettier-ignore
  expect(await raw('GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 5\r\n\r\nhello')).toMatch(/^HTTP\/1.1 413 [^]*connection: close[^]*"code":"BODY_REFUSED"/) // prettier-ignore
})

test('HEAD and a query are answered as GET without them', async () => {
  const head = await ask('/healthz', { method: 'HEAD' })
  expect([head.status, await head.text()]).toEqual([200, ''])
  expect((await ask('/healthz?from=probe')).status).toBe(200)
})

test('with a token only /healthz answers without it, and only that token opens the rest', async () => {
  const paths = ['/metrics', '/health', '/readyz', '/nothing']
  const given = [undefined, '', token, `Basic ${token}`, 'Bearer ', `Bearer ${token}x`, `Bearer ${token.slice(1)}`, `Bearer ${token.toUpperCase()}`] // prettier-ignore
  for (const path of paths) {
    for (const authorization of given) {
      const headers = authorization === undefined ? {} : { authorization }
      const refused = await ask(path, { headers }, guarded)
      expect(refused.headers.get('www-authenticate')).toBe('Bearer realm="leasehold"')
      expect(await errorOf(refused), `${path} with ${authorization}`).toEqual([401, 'UNAUTHORIZED'])
    }
  }
  expect((await ask('/healthz', {}, guarded)).status).toBe(200)
  const headers = { authorization: `bearer ${token}` }
  const statuses = await Promise.all(paths.map(async (path) => (await ask(path, { headers }, guarded)).status)) // prettier-ignore
  // Nobody has ever looked at this database, which is wrong.
  expect(statuses).toEqual([200, 503, 200, 404])
})

test('without a token nobody is answered who asks by the name of a domain, as a page in a browser would', async () => {
  for (const host of ['rebound.example', 'rebound.example:7077', '127.0.0.1.example', 'localhost.example'])
    expect(await asking(host), host).toMatch(/^HTTP\/1.1 421 [^]*"code":"WRONG_HOST"/)
  for (const host of ['127.0.0.1:7077', 'LocalHost', '[::1]:7077', '192.0.2.1'])
    expect(await asking(host), host).toMatch(/^HTTP\/1.1 503 [^]*"ok":false/)
  expect(await asking('rebound.example', '/healthz')).toMatch(/^HTTP\/1.1 200 /)
  const named = { headers: { authorization: `Bearer ${token}` } }
  expect((await ask('/readyz', named, guarded)).status).toBe(200)
})

test('/health names what is wrong: incidents and bad checks; all well is 200', async () => {
  await db.pool.query("insert into leasehold.incidents (kind, subject, summary, opened_at) values ('worker_dead', 'work@1', 'work@1 died, it is made up', leasehold.clock())") // prettier-ignore
  const said = async (): Promise<unknown> => {
    const response = await ask('/health')
    return [response.status, await response.json()]
  }
  const incident = { what: 'incident', name: 'worker_dead', message: 'work@1 died, it is made up', since: expect.stringMatching(/^\d{4}-.*Z$/) } // prettier-ignore
  const check = { what: 'check', name: 'monitor', message: 'never looked', hint: expect.stringContaining('leasehold monitor') } // prettier-ignore
  const wrong = [503, { ok: false, wrong: [incident, check], warnings: [] }]
  await expect.poll(said).toEqual(wrong)
  await db.pool.query('update leasehold.incidents set resolved_at = leasehold.clock()')
  await db.pool.query("select leasehold.monitor_beat(gen_random_uuid(), 'host.example', 1, 'test', 60000)")
  await untilStatus('/health', 200)
  expect(await (await ask('/health')).json()).toMatchObject({ ok: true, wrong: [] })
})

test('/readyz answers with the schema, and 503 with the reason while it does not fit', async () => {
  await untilStatus('/readyz', 200)
  expect(await (await ask('/readyz')).json()).toEqual({
    ready: true,
    schema: expect.stringMatching(/^\d{4}_/),
  })
  await db.pool.query('create table leasehold.by_hand ()')
  await untilStatus('/readyz', 503)
  expect(await (await ask('/readyz')).json()).toEqual({
    ready: false,
    reason: { code: 'SCHEMA_VERSION', message: expect.stringContaining('by_hand') },
  })
  await db.pool.query('drop table leasehold.by_hand')
  await untilStatus('/readyz', 200)
})

test('closing accepts nobody, ends idle connections, and finishes the request that is under way', async () => {
  const gate = Promise.withResolvers<Overview>()
  const asked = Promise.withResolvers<void>()
  const never = { freshMs: 0, patienceMs: 60_000 }
  const read = (): Promise<Overview> => {
    asked.resolve()
    return gate.promise
  }
  const overview = new SharedRead(read, never)
  const { source } = open
  const log = { error: () => {} }
  const room = await openRoom({ host: '127.0.0.1', port: 0, token: null, source: { overview, schema: source.schema }, metrics: new Metrics('x'), log }) // prettier-ignore
  const url = `http://${room.address}`
  const idle = connect(Number(room.address.split(':')[1]), '127.0.0.1')
  await once(idle, 'connect')
  const underWay = fetch(`${url}/health`)
  await asked.promise
  const closed = room.close()
  await expect(fetch(`${url}/healthz`)).rejects.toThrow()
  const counts = { workers: new Map(), schedulers: new Map(), schedules: new Map(), incidents: new Map() }
  gate.resolve({ stages: [], counts, checks: [], incidents: [], monitorSilentMs: 0 })
  const response = await underWay
  expect([response.status, response.headers.get('connection')]).toEqual([200, 'close'])
  await closed
  idle.destroy()
})

test('an address that is taken, or not of this machine, is refused with what to set', async () => {
  const [host, port] = open.room.address.split(':') as [string, string]
  const { source } = open
  const other = (at: { host: string; port: number }): Promise<unknown> =>
    openRoom({ ...at, token: null, source, metrics: new Metrics('x'), log: { error: () => {} } })
  await expect(other({ host, port: Number(port) })).rejects.toMatchObject({
    code: 'CANNOT_LISTEN',
    message: expect.stringMatching(new RegExp(`^Port ${port} of 127.0.0.1 is taken.*LEASEHOLD_CONTROL_PORT`)),
  })
  await expect(other({ host: '192.0.2.1', port: 0 })).rejects.toMatchObject({
    code: 'CANNOT_LISTEN',
    message: expect.stringContaining('LEASEHOLD_CONTROL_HOST'),
  })
})
