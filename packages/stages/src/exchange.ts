/**
 * One HTTP exchange with one host: connects only to permitted addresses, reads a bounded body, names every failure.
 *
 * Invariant: the addresses a connection may use are judged inside the lookup of that very connection, so a name that resolves
 * differently a moment later (DNS rebinding) gains nothing. It follows no redirect and knows no robots.txt; that is web.ts.
 */
import { isIP } from 'node:net'
import type { Agent, Response } from 'undici'
import type { Breaker } from './breaker.ts'
import { readBody } from './body.ts'
import type { Dns, HostAddress } from './dns.ts'
import type { Gate } from './gate.ts'
import {
  unavailable,
  type PageFound,
  type PageOutcome,
  type PageRefused,
  type PageUnavailable,
} from './page-outcome.ts'
import { isPublicAddress } from './public-address.ts'

/** The end of an exchange: a page, a redirect to follow, or a failure. */
export type Reply = PageOutcome | { readonly outcome: 'redirect'; readonly to: URL }

/** What exchanges need and share within a process. */
export type ExchangeParts = {
  readonly userAgent: string
  readonly allowPrivate: boolean
  readonly dns: Dns
  readonly breaker: Breaker
  readonly gate: Gate
}

/** Limits of one exchange. With `anyType` the content type is not looked at. */
export type ExchangeLimits = {
  readonly signal: AbortSignal
  readonly maxBytes: number
  readonly anyType: boolean
}

/** Exchanges with many hosts. `get` throws only when its signal aborts. */
export type Exchange = {
  /** Why `url` is not asked for, as far as the address itself tells; null when it may be. */
  refusal(url: URL): PageRefused | null
  /** Why `url` cannot be had now, as far as is known without trying; null when it is worth a try. */
  outage(url: URL): PageUnavailable | null
  get(url: URL, limits: ExchangeLimits): Promise<Reply>
  close(): Promise<void>
}

const CONNECT_TIMEOUT_MS = 4_000
/** A longer address is no page of a company, and each rule of a robots.txt is matched against it. */
const MAX_ADDRESS = 2_048
const READABLE = new Set(['', 'text/html', 'application/xhtml+xml', 'text/plain'])

/** What a lookup found instead of permitted addresses; travels through the connection's error to `failureOf`. */
class LookupFailure extends Error {
  readonly failure: PageUnavailable | PageRefused

  constructor(failure: PageUnavailable | PageRefused) {
    super(failure.detail)
    this.failure = failure
  }
}

/** undici and its agent. Loaded with the first page: most runners fetch none, and it is a fifth of what they would load. */
type Connections = { readonly fetch: typeof import('undici').fetch; readonly agent: Agent }

/** Opens the connections' pool. */
export function openExchange(parts: ExchangeParts): Exchange {
  let opened: Promise<Connections> | null = null
  return {
    refusal: (url) => refusal(parts, url),
    outage: (url) => outage(parts, url),
    get: (url, limits) =>
      parts.gate.run(url.host, limits.signal, async () => {
        // A deploy may have the library away for a moment; the next page looks again.
        const connections = await (opened ??= connect(parts)).catch((error: unknown) => rootMessage(error))
        if (typeof connections !== 'string') return get(parts, connections, url, limits)
        opened = null
        return unavailable('network', `the HTTP client cannot be loaded: ${connections}`)
      }),
    close: async () => (await opened?.catch(() => null))?.agent.destroy(),
  }
}

async function connect(parts: ExchangeParts): Promise<Connections> {
  const { Agent, fetch } = await import('undici')
  const agent = new Agent({
    connections: 1,
    keepAliveTimeout: 2_000,
    keepAliveMaxTimeout: 5_000,
    connect: {
      timeout: CONNECT_TIMEOUT_MS,
      lookup: (host, options, callback) => {
        void lookUp(parts, host, options.all === true, callback)
      },
    },
  })
  return { fetch, agent }
}

function refusal(parts: ExchangeParts, url: URL): PageRefused | null {
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    return { outcome: 'refused', reason: 'address', detail: `scheme ${url.protocol} is not fetched` }
  }
  if (url.href.length > MAX_ADDRESS) {
    const detail = `has ${url.href.length} characters, at most ${MAX_ADDRESS} are fetched`
    return { outcome: 'refused', reason: 'address', detail }
  }
  if (url.username !== '' || url.password !== '') {
    return { outcome: 'refused', reason: 'address', detail: 'carries a user name or password' }
  }
  const bare = url.hostname.replace(/^\[|\]$/g, '')
  if (isIP(bare) !== 0 && !parts.allowPrivate && !isPublicAddress(bare)) {
    return {
      outcome: 'refused',
      reason: 'private address',
      detail: `${url.hostname} is not a public address`,
    }
  }
  return null
}

function outage(parts: ExchangeParts, url: URL): PageUnavailable | null {
  if (parts.breaker.isOpen()) return unavailable('network', 'no host could be connected to lately')
  const refused =
    isIP(url.hostname) !== 0 || url.hostname.startsWith('[') ? null : parts.dns.refusal(url.hostname)
  return refused === null ? null : unavailable('network', refused)
}

type LookupCallback = (error: Error | null, address: string | HostAddress[], family?: number) => void

async function lookUp(
  parts: ExchangeParts,
  host: string,
  all: boolean,
  callback: LookupCallback,
): Promise<void> {
  let addresses: [HostAddress, ...HostAddress[]]
  try {
    addresses = await permittedAddresses(parts, host)
  } catch (error) {
    callback(error instanceof Error ? error : new Error(String(error)), [])
    return
  }
  if (all) callback(null, addresses)
  else callback(null, addresses[0].address, addresses[0].family)
}

async function permittedAddresses(
  parts: ExchangeParts,
  host: string,
): Promise<[HostAddress, ...HostAddress[]]> {
  const lookup = await parts.dns.addresses(host)
  if (lookup.outcome === 'none') throw new LookupFailure(unavailable('dns', lookup.reason))
  if (lookup.outcome === 'unavailable') throw new LookupFailure(unavailable('network', lookup.reason))
  const [first, ...rest] = lookup.records.filter(
    (record) => parts.allowPrivate || isPublicAddress(record.address),
  )
  if (first === undefined) {
    const detail = `${host} resolves to ${lookup.records[0]?.address ?? 'nothing'}, which is not a public address`
    throw new LookupFailure({ outcome: 'refused', reason: 'private address', detail })
  }
  return [first, ...rest]
}

async function get(
  parts: ExchangeParts,
  { fetch, agent }: Connections,
  url: URL,
  limits: ExchangeLimits,
): Promise<Reply> {
  const { breaker } = parts
  if (!breaker.enter()) return unavailable('network', 'no host could be connected to lately')
  let response: Response
  try {
    response = await fetch(url, {
      dispatcher: agent,
      redirect: 'manual',
      signal: limits.signal,
      headers: { 'user-agent': parts.userAgent, accept: 'text/html,application/xhtml+xml;q=0.9,*/*;q=0.1' },
    })
    breaker.succeeded()
  } catch (error) {
    if (limits.signal.aborted) {
      breaker.left()
      throw limits.signal.reason
    }
    return failureOf(breaker, error)
  }
  try {
    return await reply(url, response, limits)
  } catch (error) {
    if (limits.signal.aborted) throw limits.signal.reason
    return unavailable('protocol', `the answer broke off: ${rootMessage(error)}`)
  }
}

async function reply(url: URL, response: Response, limits: ExchangeLimits): Promise<Reply> {
  const redirects = [301, 302, 303, 307, 308].includes(response.status)
  const contentType = response.headers.get('content-type') ?? ''
  const type = (contentType.split(';', 1)[0] ?? '').trim().toLowerCase()
  if (redirects || !response.ok || !(limits.anyType || READABLE.has(type))) {
    await response.body?.cancel()
    const location = response.headers.get('location')
    if (redirects && location !== null) {
      const to = URL.parse(location, url.href)
      return to === null
        ? unavailable('protocol', 'redirects to what is no address')
        : { outcome: 'redirect', to }
    }
    if (!response.ok) return unavailable('status', `answers with status ${response.status}`, response.status)
    return unavailable('content type', `is of type ${type.slice(0, 80)}`)
  }
  const { text, truncated } = await readBody(response.body, contentType, limits.maxBytes)
  return { outcome: 'ok', url: url.href, contentType, text, truncated } satisfies PageFound
}

const CONNECT_FAILURES = new Set([
  'ECONNREFUSED',
  'ENETUNREACH',
  'EHOSTUNREACH',
  'EADDRNOTAVAIL',
  'ENETDOWN',
  'EACCES',
  'EPERM',
  'ETIMEDOUT',
  'UND_ERR_CONNECT_TIMEOUT',
])

function failureOf(breaker: Breaker, error: unknown): PageUnavailable | PageRefused {
  for (const cause of causes(error)) {
    if (cause instanceof LookupFailure) {
      breaker.left()
      return cause.failure
    }
    const code = 'code' in cause ? String(cause.code) : ''
    if (CONNECT_FAILURES.has(code)) {
      breaker.failed()
      return unavailable('connect', `cannot be connected to (${code})`)
    }
  }
  // The host answered, if only with nonsense: TLS that fails, a reset, a reply that is no HTTP.
  breaker.succeeded()
  return unavailable('protocol', `does not speak HTTP properly: ${rootMessage(error)}`)
}

/** The error and its causes, outermost first; of several tried addresses the errors of each. */
function* causes(error: unknown): Generator<Error> {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    yield cause
    if (cause instanceof AggregateError)
      for (const inner of cause.errors) if (inner instanceof Error) yield inner
  }
}

function rootMessage(error: unknown): string {
  return [...causes(error)].at(-1)?.message.slice(0, 200) ?? 'unknown error'
}
