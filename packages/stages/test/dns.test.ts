/**
 * Holds lookups against a real DNS server: what is found, what is certainly not there, and what nobody could tell.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { isReservedName, openDns } from '../src/dns.ts'
import { startDnsServer, type DnsServer } from '../../../test/harness/dns-server.ts'

let server: DnsServer

beforeAll(async () => {
  server = await startDnsServer({
    'both.test': { a: ['127.0.0.1', '127.0.0.2'], aaaa: ['::1'] },
    'four.test': { a: ['127.0.0.1'] },
    'mail.test': {
      mx: [
        { priority: 20, exchange: 'b.mail.test' },
        { priority: 10, exchange: 'a.mail.test' },
      ],
    },
    'nomail.test': { mx: [{ priority: 0, exchange: '' }] },
    'broken.test': { broken: true },
    'silent.test': { silent: true },
  })
})
afterAll(() => server.close())

const open = (options: Parameters<typeof openDns>[0] = {}) =>
  openDns({ servers: [server.address], timeoutMs: 30_000, failures: 3, ...options })

describe('lookups', () => {
  test('find addresses of both families, or of the one there is', async () => {
    await expect(open().addresses('both.test')).resolves.toEqual({
      outcome: 'found',
      records: [
        { address: '127.0.0.1', family: 4 },
        { address: '127.0.0.2', family: 4 },
        { address: '::1', family: 6 },
      ],
    })
    await expect(open().addresses('four.test')).resolves.toMatchObject({
      records: [{ address: '127.0.0.1', family: 4 }],
    })
  })

  test('find mail exchangers in order of preference, a null one included', async () => {
    await expect(open().mailExchangers('mail.test')).resolves.toMatchObject({
      records: ['a.mail.test', 'b.mail.test'],
    })
    await expect(open().mailExchangers('nomail.test')).resolves.toMatchObject({ records: [''] })
  })

  test('tell "there is none" from "nobody answered"', async () => {
    const dns = open()
    await expect(dns.addresses('absent.test')).resolves.toMatchObject({
      outcome: 'none',
      reason: /no such name/,
    })
    await expect(dns.mailExchangers('four.test')).resolves.toMatchObject({
      outcome: 'none',
      reason: /no such record/,
    })
    await expect(dns.addresses('broken.test')).resolves.toMatchObject({
      outcome: 'unavailable',
      reason: /ESERVFAIL/,
    })
    await expect(open({ timeoutMs: 100 }).addresses('silent.test')).resolves.toMatchObject({
      outcome: 'unavailable',
      reason: /ETIMEOUT/,
    })
  })

  test('reserved names are not asked for, unless the servers are one’s own', async () => {
    await expect(openDns().addresses('acme.example')).resolves.toMatchObject({
      outcome: 'unavailable',
      reason: /reserved/,
    })
    expect(
      ['acme.example', 'localhost', 'printer.local', 'db.internal', 'www.example.com', 'intranet'].every(
        isReservedName,
      ),
    ).toBe(true)
    expect(isReservedName('leasehold.dev')).toBe(false)
  })

  test('an abort ends a lookup at once with its reason', async () => {
    const abort = new AbortController()
    const lookup = open({ timeoutMs: 60_000 }).addresses('silent.test', abort.signal)
    abort.abort(new Error('changed my mind'))
    await expect(lookup).rejects.toThrow('changed my mind')
  })
})

describe('without a DNS', () => {
  test('nobody is asked after a few failures in a row, until a trial succeeds after the cool-down', async () => {
    const clock = { ms: 0 }
    const dns = open({ coolDownMs: 30_000, now: () => clock.ms })
    for (let i = 0; i < 3; i++) await dns.addresses('broken.test')
    expect(dns.refusal('four.test')).toMatch(/did not answer/)
    const asked = server.queries.length
    for (let i = 0; i < 1_000; i++) {
      await expect(dns.addresses(`company-${i}.test`)).resolves.toMatchObject({
        outcome: 'unavailable',
        reason: /lately/,
      })
    }
    expect(server.queries).toHaveLength(asked)
    clock.ms = 30_000
    await expect(dns.addresses('four.test')).resolves.toMatchObject({ outcome: 'found' })
    expect(dns.refusal('four.test')).toBeNull()
  })

  test('a server that is not there counts as no answer', async () => {
    const dns = openDns({ servers: ['127.0.0.1:1'], timeoutMs: 100, failures: 1 })
    await expect(dns.mailExchangers('mail.test')).resolves.toMatchObject({ outcome: 'unavailable' })
    expect(dns.refusal('four.test')).toMatch(/did not answer/)
  })
})
