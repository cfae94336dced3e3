/**
 * Looks names up in the DNS with short timeouts, and finds out fast when there is no DNS to ask.
 *
 * "There is no such name" and "nobody could be asked" are different answers and stay different. After several failures in a row
 * without an answer, lookups are refused at once for a while (breaker.ts). Names reserved for examples and the local machine are
 * asked for only when own servers are given. It neither reads /etc/hosts nor judges addresses; that is public-address.ts and web.ts.
 */
import type { MxRecord } from 'node:dns'
import { Resolver } from 'node:dns/promises'
import { createBreaker, type Breaker } from './breaker.ts'

/** An address of a host. */
export type HostAddress = { readonly address: string; readonly family: 4 | 6 }

/** The answer to a lookup: records, the certainty that there are none, or that nobody could be asked and why. Reasons do not repeat the name. */
export type Lookup<T> =
  | { readonly outcome: 'found'; readonly records: readonly T[] }
  | { readonly outcome: 'none'; readonly reason: string }
  | { readonly outcome: 'unavailable'; readonly reason: string }

/** A resolver with a memory of whether anybody answers. All lookups throw the signal's reason when it aborts, and nothing else. */
export type Dns = {
  addresses(host: string, signal?: AbortSignal): Promise<Lookup<HostAddress>>
  /** Mail exchangers, most preferred first. A "null MX" (RFC 7505) is a record with an empty name. */
  mailExchangers(domain: string, signal?: AbortSignal): Promise<Lookup<string>>
  /** Why `name` would not be asked for now, without asking: reserved, or nobody answered lately. Null when it would be. */
  refusal(name: string): string | null
}

/**
 * `servers`: addresses with port (`127.0.0.1:5353`) instead of the system's; they are asked for reserved names too, which private
 * networks use. `timeoutMs`: of one try; there are two.
 */
export type DnsOptions = {
  readonly servers?: readonly string[]
  readonly timeoutMs?: number
  /** Failures in a row after which nobody is asked for `coolDownMs`. */
  readonly failures?: number
  readonly coolDownMs?: number
  readonly now?: () => number
}

/** Answers that say "there is none"; every other error of the resolver says that nobody answered properly. */
const NO_SUCH = new Set(['ENOTFOUND', 'ENODATA', 'ENONAME', 'EBADNAME', 'ENOTIMP'])

/** Opens a resolver. */
export function openDns(options: DnsOptions = {}): Dns {
  const resolver = new Resolver({ timeout: options.timeoutMs ?? 1_000, tries: 2 })
  if (options.servers !== undefined) resolver.setServers([...options.servers])
  const breaker = createBreaker({
    failures: options.failures ?? 5,
    coolDownMs: options.coolDownMs ?? 30_000,
    maxCoolDownMs: 300_000,
    ...(options.now === undefined ? {} : { now: options.now }),
  })
  const refusal = (name: string) => {
    if (options.servers === undefined && isReservedName(name)) {
      return 'reserved names are never looked up'
    }
    return breaker.isOpen() ? 'the DNS did not answer lately' : null
  }
  return {
    refusal,
    addresses: (host, signal) =>
      guarded(breaker, refusal(host), signal, async () => {
        const answers = await Promise.allSettled([resolver.resolve4(host), resolver.resolve6(host)])
        const [four, six] = answers
        const records: HostAddress[] = []
        if (four.status === 'fulfilled')
          for (const address of four.value) records.push({ address, family: 4 })
        if (six.status === 'fulfilled') for (const address of six.value) records.push({ address, family: 6 })
        if (records.length > 0) return records
        // Of two failures the one that says least decides: a timeout beside "no AAAA" does not prove that there is no name.
        const reasons: unknown[] = answers.flatMap((a) =>
          a.status === 'rejected' ? [a.reason as unknown] : [],
        )
        throw (
          reasons.find((reason) => !NO_SUCH.has(codeOf(reason))) ?? reasons[0] ?? new Error('no addresses')
        )
      }),
    mailExchangers: (domain, signal) =>
      guarded(breaker, refusal(domain), signal, async () => {
        const records: MxRecord[] = await resolver.resolveMx(domain)
        return records.toSorted((a, b) => a.priority - b.priority).map((record) => record.exchange)
      }),
  }
}

async function guarded<T>(
  breaker: Breaker,
  refused: string | null,
  signal: AbortSignal | undefined,
  ask: () => Promise<readonly T[]>,
): Promise<Lookup<T>> {
  signal?.throwIfAborted()
  if (refused !== null) return { outcome: 'unavailable', reason: refused }
  // Another caller may be trying out whether somebody answers again.
  if (!breaker.enter()) return { outcome: 'unavailable', reason: 'the DNS did not answer lately' }
  try {
    const records = await abortable(ask(), signal)
    breaker.succeeded()
    return records.length > 0
      ? { outcome: 'found', records }
      : { outcome: 'none', reason: 'there is no such record' }
  } catch (error) {
    if (signal?.aborted === true) {
      breaker.left()
      throw signal.reason
    }
    const code = codeOf(error)
    if (NO_SUCH.has(code)) {
      breaker.succeeded()
      const reason = code === 'ENODATA' ? 'there is no such record' : 'there is no such name'
      return { outcome: 'none', reason }
    }
    breaker.failed()
    return { outcome: 'unavailable', reason: `the DNS did not answer (${code})` }
  }
}

/** The promise's result, or the abort, whichever is first. The resolver's query ends by its own timeout. */
async function abortable<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise
  const { promise: aborted, reject } = Promise.withResolvers<never>()
  const onAbort = () => reject(signal.reason instanceof Error ? signal.reason : new Error('aborted'))
  signal.addEventListener('abort', onAbort, { once: true })
  try {
    return await Promise.race([promise, aborted])
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}

/** Whether `name` can never be looked up in the public DNS (RFC 2606, 6761, 6762, 8375). */
export function isReservedName(name: string): boolean {
  const labels = name.toLowerCase().replace(/\.$/, '').split('.')
  const top = labels.at(-1) ?? ''
  if (labels.length === 1) return true
  if (['example', 'test', 'invalid', 'localhost', 'local', 'internal', 'onion', 'alt'].includes(top))
    return true
  return labels.at(-2) === 'example' && ['com', 'net', 'org'].includes(top)
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : 'unknown'
}
