/**
 * Holds the fetching of pages against a real HTTP server: limits, redirects, robots.txt, private addresses, a network that is away.
 */
import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { createServer as createTcpServer } from 'node:net'
import { gzipSync } from 'node:zlib'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { openDns } from '../src/dns.ts'
import { isPublicAddress } from '../src/public-address.ts'
import { fetchPage, openWeb, type Web, type WebOptions } from '../src/web.ts'
import { startDnsServer, type DnsServer } from '../../../test/harness/dns-server.ts'
import { listenOnLoopback } from '../../../test/harness/loopback.ts'

type Handler = (request: IncomingMessage, response: ServerResponse) => void

let server: Server
let names: DnsServer
let port: number
let handlers: Record<string, Handler> = {}
let requests: string[] = []
const webs: Web[] = []

beforeAll(async () => {
  server = createServer((request, response) => {
    requests.push(`${request.headers.host?.split(':')[0]}${request.url}`)
    const handler = handlers[request.url ?? '']
    if (handler === undefined) response.writeHead(404).end()
    else handler(request, response)
  })
  port = await listenOnLoopback(server)
  names = await startDnsServer({
    'site.test': { a: ['127.0.0.1'] },
    'other.test': { a: ['127.0.0.1'] },
    'inside.test': { a: ['10.1.2.3'], aaaa: ['fd00::1'] },
    'mapped.test': { aaaa: ['::ffff:7f00:1'] },
  })
})
afterEach(async () => {
  handlers = {}
  requests = []
  await Promise.all(webs.splice(0).map((web) => web.close()))
})
afterAll(async () => {
  server.closeAllConnections()
  server.close()
  await names.close()
})

function open(options: WebOptions = {}): Web {
  const web = openWeb({
    allowPrivate: true,
    dns: openDns({ servers: [names.address], timeoutMs: 30_000 }),
    ...options,
  })
  webs.push(web)
  return web
}

const at = (path: string, host = 'site.test') => `http://${host}:${port}${path}`

function html(text: string, headers: Record<string, string> = {}): Handler {
  return (_request, response) =>
    response.writeHead(200, { 'content-type': 'text/html', ...headers }).end(text)
}

function redirect(to: string): Handler {
  return (_request, response) => response.writeHead(302, { location: to }).end()
}

describe('a page', () => {
  test('comes with its final address after redirects', async () => {
    handlers = { '/a': redirect('/b'), '/b': redirect(at('/c', 'other.test')), '/c': html('<p>hello') }
    await expect(open().page(at('/a'))).resolves.toMatchObject({
      outcome: 'ok',
      url: at('/c', 'other.test'),
      text: '<p>hello',
      truncated: false,
    })
  })

  test('is decoded by header, meta or mark, and survives a charset nobody knows', async () => {
    handlers = {
      '/header': (_q, r) =>
        r
          .writeHead(200, { 'content-type': 'text/html; charset=ISO-8859-1' })
          .end(Buffer.from('Café', 'latin1')),
      '/meta': (_q, r) =>
        r
          .writeHead(200, { 'content-type': 'text/html' })
          .end(Buffer.from('<meta charset="windows-1252">Café', 'latin1')),
      '/mark': (_q, r) =>
        r.writeHead(200, { 'content-type': 'text/html' }).end(Buffer.from('\ufeffCafé', 'utf16le')),
      '/unknown': html('Café', { 'content-type': 'text/html; charset=klingon' }),
    }
    const web = open()
    for (const path of ['/header', '/meta', '/mark', '/unknown']) {
      const page = await web.page(at(path))
      expect(page.outcome === 'ok' && page.text.endsWith('Café')).toBe(true)
    }
  })

  test('is cut at the size limit, counted after decompression', async () => {
    const bomb = gzipSync(Buffer.alloc(50_000_000, 'a'))
    handlers = {
      '/bomb': (_q, r) =>
        r.writeHead(200, { 'content-type': 'text/html', 'content-encoding': 'gzip' }).end(bomb),
      '/endless': (_q, r) => {
        r.writeHead(200, { 'content-type': 'text/html' })
        const more = () => {
          while (!r.destroyed && r.write('x'.repeat(10_000))) continue
        }
        r.on('drain', more)
        more()
      },
    }
    const web = open()
    for (const path of ['/bomb', '/endless']) {
      const page = await web.page(at(path), { maxBytes: 1_000 })
      expect(page).toMatchObject({ outcome: 'ok', truncated: true })
      expect(page.outcome === 'ok' && page.text.length).toBe(1_000)
    }
  })

  test.each([
    ['a status that is no success', '/gone', { outcome: 'unavailable', reason: 'status', status: 410 }],
    ['a type that is no text', '/pdf', { outcome: 'unavailable', reason: 'content type' }],
    ['redirects without end', '/loop', { outcome: 'unavailable', reason: 'redirects' }],
    ['a redirect to another scheme', '/ftp', { outcome: 'refused', reason: 'address' }],
    ['an answer that breaks off', '/cut', { outcome: 'unavailable', reason: 'protocol' }],
    ['silence', '/silent', { outcome: 'unavailable', reason: 'timeout' }],
    ['a broken compression', '/badgzip', { outcome: 'unavailable', reason: 'protocol' }],
  ])('%s is an outcome', async (_, path, outcome) => {
    handlers = {
      '/gone': (_q, r) => r.writeHead(410).end(),
      '/pdf': html('%PDF', { 'content-type': 'application/pdf' }),
      '/loop': redirect('/loop'),
      '/ftp': redirect('ftp://site.test/x'),
      '/cut': (_q, r) => {
        r.writeHead(200, { 'content-type': 'text/html', 'content-length': '1000' })
        r.write('half', () => r.destroy())
      },
      '/silent': () => undefined,
      '/badgzip': html('not gzip', { 'content-encoding': 'gzip' }),
    }
    const timeoutMs = path === '/silent' ? 500 : 60_000
    await expect(open().page(at(path), { timeoutMs })).resolves.toMatchObject(outcome)
  })

  test('a server that speaks no HTTP is an outcome', async () => {
    const tcp = createTcpServer((socket) => socket.end('SSH-2.0-hello\r\n'))
    const tcpPort = await listenOnLoopback(tcp)
    await expect(open().page(`http://site.test:${tcpPort}/`)).resolves.toMatchObject({
      outcome: 'unavailable',
      reason: 'protocol',
    })
    tcp.close()
  })

  test('the caller’s abort is thrown, not made an outcome', async () => {
    const arrived = Promise.withResolvers<void>()
    handlers = { '/silent': () => arrived.resolve() }
    const abort = new AbortController()
    const page = open().page(at('/silent'), { signal: abort.signal })
    await arrived.promise
    abort.abort(new Error('lease lost'))
    await expect(page).rejects.toThrow('lease lost')
  })
})

describe('private addresses', () => {
  test.each([
    'http://127.0.0.1/',
    'http://2130706433/',
    'http://0x7f.1/',
    'http://[::1]/',
    'http://[::ffff:127.0.0.1]/',
    'http://169.254.169.254/latest/meta-data',
    'http://10.0.0.1/',
    'http://[fd00::1]/',
    'http://0.0.0.0/',
  ])('%s is refused', async (url) => {
    await expect(open({ allowPrivate: false }).page(url)).resolves.toMatchObject({
      outcome: 'refused',
      reason: 'private address',
    })
  })

  test.each(['inside.test', 'site.test', 'mapped.test'])(
    '%s, which resolves to one, is refused without a connection',
    async (host) => {
      await expect(open({ allowPrivate: false }).page(at('/', host))).resolves.toMatchObject({
        outcome: 'refused',
        reason: 'private address',
      })
      expect(requests).toEqual([])
    },
  )

  test.each([
    'file:///etc/passwd',
    'ftp://site.test/',
    'data:text/html,x',
    'not an address',
    'http://user:secret@site.test/',
  ])('%s is refused', async (url) => {
    await expect(open().page(url)).resolves.toMatchObject({ outcome: 'refused', reason: 'address' })
  })

  test('public ones are told from the rest', () => {
    expect(['8.8.8.8', '2606:4700::1111', '172.32.0.1', '100.128.0.1'].every(isPublicAddress)).toBe(true)
    const others = [
      '100.64.0.1',
      '192.168.1.1',
      '224.0.0.1',
      '255.255.255.255',
      '198.18.0.1',
      'fe80::1%eth0',
      '64:ff9b::a00:1',
      '2002:7f00:1::',
      '::',
      '',
      'x',
    ]
    expect(others.some(isPublicAddress)).toBe(false)
  })
})

describe('manners', () => {
  test('robots.txt is asked once per site and obeyed', async () => {
    handlers = {
      '/robots.txt': (_q, r) =>
        r
          .writeHead(200)
          .end('User-agent: *\nDisallow: /private\n\nUser-agent: LeaseholdBot\nDisallow: /no-bots\n'),
      '/': html('home'),
      '/no-bots': html('secret'),
      '/private': html('for us allowed'),
    }
    const web = open()
    await expect(web.page(at('/'))).resolves.toMatchObject({ outcome: 'ok' })
    await expect(web.page(at('/no-bots'))).resolves.toMatchObject({ outcome: 'refused', reason: 'robots' })
    await expect(web.page(at('/private'))).resolves.toMatchObject({ outcome: 'ok' })
    expect(requests.filter((request) => request.endsWith('/robots.txt'))).toHaveLength(1)
    expect(requests).not.toContain('site.test/no-bots')
  })

  test('a rule with more wildcards than anybody needs forbids more than it says, and allows nothing', async () => {
    const many = '*a'.repeat(20)
    handlers = {
      '/robots.txt': (_q, r) =>
        r
          .writeHead(200)
          .end(`User-agent: *\nDisallow: /forbidden${many}b\nDisallow: /also\nAllow: /also${many}`),
      [`/forbidden${'a'.repeat(30)}`]: html('secret'),
      [`/also${'a'.repeat(30)}`]: html('secret'),
      '/': html('home'),
    }
    const web = open()
    for (const path of ['/forbidden', '/also']) {
      const outcome = await web.page(at(path + 'a'.repeat(30)))
      expect(outcome).toMatchObject({ outcome: 'refused', reason: 'robots' })
    }
    await expect(web.page(at('/'))).resolves.toMatchObject({ outcome: 'ok' })
  })

  test('an address that is too long is not asked for, also when a site redirects to it', async () => {
    handlers = { '/': redirect(`/${'a'.repeat(3_000)}`) }
    const outcome = await open().page(at('/'))
    expect(outcome).toMatchObject({ outcome: 'refused', reason: 'address', detail: /2048/ })
    expect(requests.filter((request) => request.includes('aaa'))).toEqual([])
  })

  test('the rules of a site redirected to are asked too', async () => {
    handlers = {
      '/robots.txt': (q, r) =>
        r
          .writeHead(200)
          .end(q.headers.host?.startsWith('other') === true ? 'User-agent: *\nDisallow: /' : ''),
      '/a': redirect(at('/b', 'other.test')),
      '/b': html('secret'),
    }
    await expect(open().page(at('/a'))).resolves.toMatchObject({ outcome: 'refused', reason: 'robots' })
  })

  test('no robots.txt allows all, a failing one forbids all', async () => {
    handlers = { '/': html('home') }
    await expect(open().page(at('/'))).resolves.toMatchObject({ outcome: 'ok' })
    handlers = { '/': html('home'), '/robots.txt': (_q, r) => r.writeHead(503).end() }
    await expect(open().page(at('/'))).resolves.toMatchObject({
      outcome: 'refused',
      reason: 'robots',
      detail: /503/,
    })
  })

  test('a host gets one request at a time, two hosts are asked side by side', async () => {
    const busy = new Map<string, number>()
    let together = 0
    let most = 0
    const bothHere = Promise.withResolvers<void>()
    handlers = Object.fromEntries(
      Array.from({ length: 6 }, (_, i) => [
        `/${i}`,
        (request: IncomingMessage, response: ServerResponse) => {
          const host = request.headers.host ?? ''
          busy.set(host, (busy.get(host) ?? 0) + 1)
          most = Math.max(most, busy.get(host) ?? 0)
          if (++together === 2) bothHere.resolve()
          void bothHere.promise.then(() => {
            busy.set(host, (busy.get(host) ?? 1) - 1)
            return response.writeHead(200, { 'content-type': 'text/html' }).end('x')
          })
        },
      ]),
    )
    const web = open({ respectRobots: false })
    const paths = Array.from({ length: 6 }, (_, i) => at(`/${i}`, i % 2 === 0 ? 'site.test' : 'other.test'))
    const pages = await Promise.all(paths.map((path) => web.page(path)))
    expect(pages.every((page) => page.outcome === 'ok')).toBe(true)
    expect(most).toBe(1)
  })
})

describe('a network that is away', () => {
  test('is noticed by failing connections, remembered, and tried again later', async () => {
    const closed = createTcpServer()
    const closedPort = await listenOnLoopback(closed)
    closed.close()
    await once(closed, 'close')
    const clock = { ms: 0 }
    const web = open({ failures: 3, coolDownMs: 30_000, now: () => clock.ms })
    for (let i = 0; i < 3; i++) {
      await expect(web.page(`http://site.test:${closedPort}/`)).resolves.toMatchObject({
        outcome: 'unavailable',
        reason: 'connect',
      })
    }
    handlers = { '/': html('home') }
    await expect(web.page(at('/'))).resolves.toMatchObject({ outcome: 'unavailable', reason: 'network' })
    expect(requests).toEqual([])
    clock.ms = 30_000
    await expect(web.page(at('/'))).resolves.toMatchObject({ outcome: 'ok' })
  })

  test('without a DNS, 30,000 companies are answered for at once', async () => {
    const dns = openDns({ servers: ['127.0.0.1:1'], timeoutMs: 100, failures: 5 })
    const web = open({ dns })
    for (let turn = 0; turn < 300; turn++) {
      const pages = await Promise.all(
        Array.from({ length: 100 }, (_, i) => web.page(`http://company-${turn}-${i}.test/`)),
      )
      expect(pages.every((page) => page.outcome === 'unavailable' && page.reason === 'network')).toBe(true)
    }
  })

  test('a name that does not exist says so and does not count against the network', async () => {
    const web = open({ failures: 1, dns: openDns({ servers: [names.address], failures: 1 }) })
    handlers = { '/': html('home') }
    await expect(web.page('http://absent.test/')).resolves.toMatchObject({
      outcome: 'unavailable',
      reason: 'dns',
    })
    await expect(web.page(at('/'))).resolves.toMatchObject({ outcome: 'ok' })
  })
})

test('a single fetch opens and closes a web of its own', async () => {
  handlers = { '/': html('home') }
  await expect(fetchPage(`http://127.0.0.1:${port}/`, { allowPrivate: true })).resolves.toMatchObject({
    outcome: 'ok',
    text: 'home',
  })
})
