/**
 * Holds the verification of addresses against a real DNS server: valid, invalid, and honestly unknown.
 */
import { openDns, type Dns } from '@leasehold/stages'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startDnsServer, type DnsServer } from '../../../test/harness/dns-server.ts'
import { createVerify, syntaxProblem } from '../src/contacts/verify.ts'

const never = new AbortController().signal
let server: DnsServer

beforeAll(async () => {
  server = await startDnsServer({
    'mail.test': { mx: [{ priority: 10, exchange: 'mx.mail.test' }] },
    'host.test': { a: ['127.0.0.1'] },
    'null.test': { mx: [{ priority: 0, exchange: '' }] },
    'bare.test': {},
    'broken.test': { broken: true },
    'silent.test': { silent: true },
  })
})
afterAll(() => server.close())

/** Patient, for a busy machine; who asks for what is never answered takes one that is not. */
const open = (timeoutMs = 10_000): Dns => openDns({ servers: [server.address], timeoutMs })

describe('an address', () => {
  test.each([
    ['jo@mail.test', 'valid', /accepts mail/],
    ['jo@host.test', 'valid', /may accept/],
    ['jo@null.test', 'invalid', /no mail/],
    ['jo@bare.test', 'invalid', /neither/],
    ['jo@absent.test', 'invalid', /neither/],
    ['jo@broken.test', 'unknown', /did not answer/],
    ['jo@silent.test', 'unknown', /did not answer/],
    ['jo..doe@mail.test', 'invalid', /no mailbox/],
    ['jo doe@mail.test', 'invalid', /no mailbox/],
    ['jo@mail', 'invalid', /domain/],
    ['jo', 'invalid', /no @/],
    [`${'x'.repeat(65)}@mail.test`, 'invalid', /too long/],
  ])('%s is %s', async (address, status, reason) => {
    const dns = open(address.endsWith('@silent.test') ? 100 : undefined)
    await expect(createVerify(dns)(address, never)).resolves.toMatchObject({ status, reason })
  })

  test('common forms pass the syntax, hostile ones do not', () => {
    expect(
      ['first.last+tag@sub.acme.co.uk', "o'neil@acme.example", 'x@xn--bcher-kva.example'].map(syntaxProblem),
    ).toEqual([null, null, null])
    for (const address of [
      'a@b@c.test',
      '.a@b.test',
      'a.@b.test',
      'a@-b.test',
      'a@b..test',
      'a\r\nBcc:x@b.test',
      '"a"@b.test',
      'a@[127.0.0.1]',
    ]) {
      expect(syntaxProblem(address)).not.toBeNull()
    }
  })
})

describe('the memory', () => {
  test('asks for a domain once, also when many ask at the same time', async () => {
    const verify = createVerify(open())
    const before = server.queries.length
    await Promise.all(Array.from({ length: 50 }, (_, i) => verify(`person${i}@mail.test`, never)))
    await verify('later@mail.test', never)
    expect(server.queries.length - before).toBe(1)
  })

  test('keeps "unknown" only briefly', async () => {
    const clock = { ms: 0 }
    const verify = createVerify(open(1_000), () => clock.ms)
    await expect(verify('jo@silent.test', never)).resolves.toMatchObject({ status: 'unknown' })
    server.zone['silent.test'] = { a: ['127.0.0.1'] }
    await expect(verify('jo@silent.test', never)).resolves.toMatchObject({ status: 'unknown' })
    clock.ms = 30_000
    await expect(verify('jo@silent.test', never)).resolves.toMatchObject({ status: 'valid' })
    server.zone['silent.test'] = { silent: true }
  })

  test('one caller’s abort is not another’s', async () => {
    const verify = createVerify(open(300))
    const abort = new AbortController()
    const first = verify('a@silent.test', abort.signal)
    const second = verify('b@silent.test', never)
    abort.abort(new Error('lease lost'))
    await expect(first).rejects.toThrow('lease lost')
    await expect(second).resolves.toMatchObject({ status: 'unknown' })
  })
})

test('without a DNS everything is unknown, and nobody waits', async () => {
  const verify = createVerify(openDns({ servers: ['127.0.0.1:1'], timeoutMs: 100, failures: 1 }))
  for (let i = 0; i < 500; i++) {
    await expect(verify(`jo@company-${i}.test`, never)).resolves.toMatchObject({ status: 'unknown' })
  }
})
