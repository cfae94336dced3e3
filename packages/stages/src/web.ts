/**
 * Fetches public pages politely and safely: robots.txt, one request per host at a time, limits on time, size and redirects.
 *
 * Invariant: no request reaches an address that is not public (unless `allowPrivate`), because the addresses a name resolves to
 * are judged at the very lookup the connection uses. A site's failure is an outcome, never an exception; only the caller's own abort throws.
 * When hosts cannot be connected to, several in a row, requests are refused for a while. One HTTP exchange is exchange.ts.
 */
import { createBreaker } from './breaker.ts'
import { openDns, type Dns } from './dns.ts'
import { openExchange, type Exchange } from './exchange.ts'
import { createGate } from './gate.ts'
import { unavailable, type PageOutcome, type PageRefused, type PageUnavailable } from './page-outcome.ts'
import { createRobots, ROBOTS_BYTES, type Robots } from './robots.ts'

/** The limits of one fetch. `timeoutMs` (10 s) covers everything, also waiting for the host; `maxBytes` (1 MiB) counts after decompression. */
export type PageOptions = {
  readonly signal?: AbortSignal
  readonly timeoutMs?: number
  readonly maxBytes?: number
}

/** An opened web. `close` ends its idle connections. */
export type Web = {
  page(url: string, options?: PageOptions): Promise<PageOutcome>
  close(): Promise<void>
}

/** `userAgent` begins with our product token, by which robots.txt addresses us. `allowPrivate` is for networks of one's own. */
export type WebOptions = {
  readonly userAgent?: string
  readonly allowPrivate?: boolean
  readonly respectRobots?: boolean
  readonly dns?: Dns
  /** Failed connections in a row after which nobody is tried for `coolDownMs`. */
  readonly failures?: number
  readonly coolDownMs?: number
  readonly now?: () => number
}

const MAX_REDIRECTS = 5
const USER_AGENT = 'LeaseholdBot/0.1'

type Failure = PageUnavailable | PageRefused

/** Opens a web for one process: it remembers robots rules, which hosts are busy, and whether the network answers. */
export function openWeb(options: WebOptions = {}): Web {
  const userAgent = options.userAgent ?? USER_AGENT
  const exchange = openExchange({
    userAgent,
    allowPrivate: options.allowPrivate ?? false,
    dns: options.dns ?? openDns(),
    breaker: createBreaker({
      failures: options.failures ?? 8,
      coolDownMs: options.coolDownMs ?? 30_000,
      maxCoolDownMs: 300_000,
      ...(options.now === undefined ? {} : { now: options.now }),
    }),
    gate: createGate(),
  })
  const robots =
    options.respectRobots === false
      ? null
      : createRobots<Failure>(userAgent.split('/', 1)[0] ?? userAgent, options.now)
  return {
    page: (url, pageOptions = {}) => page(exchange, robots, url, pageOptions),
    close: () => exchange.close(),
  }
}

/** Fetches one page with a web of its own; for more than one page open a web, which remembers. */
export async function fetchPage(url: string, options: PageOptions & WebOptions = {}): Promise<PageOutcome> {
  const web = openWeb(options)
  try {
    return await web.page(url, options)
  } finally {
    await web.close()
  }
}

async function page(
  exchange: Exchange,
  robots: Robots<Failure> | null,
  address: string,
  options: PageOptions,
): Promise<PageOutcome> {
  options.signal?.throwIfAborted()
  const url = URL.parse(address)
  if (url === null) return { outcome: 'refused', reason: 'address', detail: 'is no address' }
  // Known before a timer or a connection exists: with the network away this answers thousands of pages a second.
  const known = exchange.refusal(url) ?? exchange.outage(url)
  if (known !== null) return known
  const timeoutMs = options.timeoutMs ?? 10_000
  const timeout = AbortSignal.timeout(timeoutMs)
  const signal = options.signal === undefined ? timeout : AbortSignal.any([options.signal, timeout])
  try {
    const maxBytes = options.maxBytes ?? 1024 * 1024
    return await followed(exchange, url, signal, maxBytes, (hop) => permitted(exchange, robots, hop, signal))
  } catch (error) {
    if (options.signal?.aborted === true) throw options.signal.reason
    if (timeout.aborted) return unavailable('timeout', `gave no answer within ${timeoutMs} ms`)
    throw error
  }
}

/** Asks robots.txt; the file itself is not subject to it. */
async function permitted(
  exchange: Exchange,
  robots: Robots<Failure> | null,
  url: URL,
  signal: AbortSignal,
): Promise<Failure | null> {
  if (robots === null) return null
  const verdict = await robots.check(url, async (robotsUrl) => {
    const file = await followed(exchange, robotsUrl, signal, ROBOTS_BYTES, () => Promise.resolve(null), true)
    if (file.outcome === 'ok') return { status: 200, text: file.text }
    if (file.outcome === 'unavailable' && file.status !== null) return { status: file.status, text: '' }
    // A robots.txt that redirects without end, or to where we must not go, does not exist for us (RFC 9309, 2.3.1.2).
    if (file.outcome === 'refused' || file.reason === 'redirects') return { status: 404, text: '' }
    return { unreachable: file }
  })
  if (verdict.verdict === 'allowed') return null
  if (verdict.verdict === 'unreachable') return verdict.why
  return { outcome: 'refused', reason: 'robots', detail: verdict.why }
}

/** Follows redirects, each hop checked anew by `mayAsk` and by the exchange. */
async function followed(
  exchange: Exchange,
  first: URL,
  signal: AbortSignal,
  maxBytes: number,
  mayAsk: (url: URL) => Promise<Failure | null>,
  anyType = false,
): Promise<PageOutcome> {
  let url = first
  for (let hop = 0; hop <= MAX_REDIRECTS; hop++) {
    const forbidden = exchange.refusal(url) ?? (await mayAsk(url))
    if (forbidden !== null) return forbidden
    const reply = await exchange.get(url, { signal, maxBytes, anyType })
    if (reply.outcome !== 'redirect') return reply
    url = reply.to
  }
  return unavailable('redirects', `redirects more than ${MAX_REDIRECTS} times`)
}
