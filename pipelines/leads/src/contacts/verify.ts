/**
 * Verifies e-mail addresses as far as syntax and the DNS can tell, and says `unknown` when they cannot.
 *
 * `valid` means: well-formed, and its domain accepts mail. It does not prove that the mailbox exists, since asking the mail server
 * would be unfriendly and is answered falsely by many. Answers are remembered per domain, "unknown" only briefly.
 */
import type { Dns } from '@leasehold/stages'

/** The verdict on an address. */
export type Verification = {
  readonly status: 'valid' | 'invalid' | 'unknown'
  /** In words, for the result. */
  readonly reason: string
}

/** Verifies one address. Throws only the signal's reason when it aborts. */
export type Verify = (address: string, signal: AbortSignal) => Promise<Verification>

const LOCAL = /^[a-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*$/i
const DOMAIN = /^(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+(?:[a-z]{2,63}|xn--[a-z0-9-]{2,59})$/i

const CERTAIN_MS = 3_600_000
const UNKNOWN_MS = 30_000
const MAX_DOMAINS = 20_000

/** What is wrong with the form of an address (RFC 5321 as it is used: no quotes, no comments, no literals); null when nothing is. */
export function syntaxProblem(address: string): string | null {
  const at = address.lastIndexOf('@')
  if (at < 1) return 'has no @'
  const local = address.slice(0, at)
  const domain = address.slice(at + 1)
  if (local.length > 64 || domain.length > 253) return 'is too long'
  if (!LOCAL.test(local)) return 'has characters that no mailbox has'
  return DOMAIN.test(domain) ? null : 'has no valid domain'
}

/** Makes a verifier with an empty memory. `now` is a monotonic clock in ms. */
export function createVerify(dns: Dns, now: () => number = () => performance.now()): Verify {
  const known = new Map<string, { until: number; verdict: Verification }>()
  const underway = new Map<string, Promise<Verification>>()
  const remember = (domain: string, verdict: Verification) => {
    known.delete(domain)
    known.set(domain, { verdict, until: now() + (verdict.status === 'unknown' ? UNKNOWN_MS : CERTAIN_MS) })
    const oldest = known.keys().next()
    if (known.size > MAX_DOMAINS && oldest.done !== true) known.delete(oldest.value)
  }
  return async (address, signal) => {
    const problem = syntaxProblem(address)
    if (problem !== null) return { status: 'invalid', reason: `the address ${problem}` }
    const domain = address.slice(address.lastIndexOf('@') + 1).toLowerCase()
    const answer = known.get(domain)
    if (answer !== undefined && answer.until > now()) return answer.verdict
    const asked = underway.get(domain)
    // Whoever waits for another's lookup must not be ended by that one's abort: on failure it asks for itself.
    if (asked !== undefined) {
      const shared = await asked.catch(() => null)
      signal.throwIfAborted()
      if (shared !== null) return shared
    }
    const asking = askDomain(dns, domain, signal)
    underway.set(domain, asking)
    try {
      const verdict = await asking
      remember(domain, verdict)
      return verdict
    } finally {
      if (underway.get(domain) === asking) underway.delete(domain)
    }
  }
}

async function askDomain(dns: Dns, domain: string, signal: AbortSignal): Promise<Verification> {
  const mail = await dns.mailExchangers(domain, signal)
  if (mail.outcome === 'found') {
    // RFC 7505: a single exchanger without a name says that the domain accepts no mail.
    const accepts = mail.records.some((exchange) => exchange !== '' && exchange !== '.')
    return accepts
      ? { status: 'valid', reason: 'its domain accepts mail' }
      : { status: 'invalid', reason: 'its domain says that it accepts no mail' }
  }
  if (mail.outcome === 'unavailable') return { status: 'unknown', reason: mail.reason }
  // RFC 5321, 5.1: without an MX record the host itself takes the mail.
  const host = await dns.addresses(domain, signal)
  if (host.outcome === 'found')
    return { status: 'valid', reason: 'its domain has an address and may accept mail' }
  if (host.outcome === 'unavailable') return { status: 'unknown', reason: host.reason }
  return { status: 'invalid', reason: 'its domain has neither a mail server nor an address' }
}
