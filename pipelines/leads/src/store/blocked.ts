/**
 * Domains that must not be contacted: reading them for discovery, adding to them.
 *
 * The database holds the truth (view leads.blocked_domains); a process may use what it read for half a minute. A domain
 * suppressed later still never shows in a result, because the result's view leaves it out as well.
 */
import type { Db } from '@leasehold/queue'
import { registrableDomain } from '../company.ts'

const FRESH_MS = 30_000

/** Reads all blocked domains, at most every 30 s however often it is called. `now` is a monotonic clock in ms. */
export function createBlockedDomains(
  now: () => number = () => performance.now(),
): (db: Db) => Promise<ReadonlySet<string>> {
  let look: { at: number; domains: Promise<ReadonlySet<string>> } | null = null
  return (db) => {
    if (look !== null && now() - look.at < FRESH_MS) return look.domains
    const domains = readBlocked(db)
    look = { at: now(), domains }
    domains.catch(() => {
      look = null
    })
    return domains
  }
}

async function readBlocked(db: Db): Promise<ReadonlySet<string>> {
  const { rows } = await db.query<{ domain: string }>('select domain from leads.blocked_domains')
  return new Set(rows.map((row) => row.domain))
}

/**
 * Suppresses domains for ever; addresses and hosts are accepted (`https://www.acme.example` suppresses `acme.example`).
 * Returns how many are new; what holds no domain is returned as `refused`.
 */
export async function suppressDomains(
  db: Db,
  domains: readonly string[],
  reason: string,
): Promise<{ added: number; refused: string[] }> {
  const bare = domains.map((text) => ({ text, domain: registrableDomain(text) }))
  const { rowCount } = await db.query(
    `insert into leads.suppressions (domain, reason) select distinct d, $2 from unnest($1::text[]) d on conflict (domain) do nothing`,
    [bare.flatMap(({ domain }) => (domain === null ? [] : [domain])), reason],
  )
  return {
    added: rowCount ?? 0,
    refused: bare.filter(({ domain }) => domain === null).map(({ text }) => text),
  }
}

/** Records that the domains of a run's leads were written to, so that new runs leave them out for 90 days. Returns how many. */
export async function recordContacted(db: Db, runId: string): Promise<number> {
  const { rowCount } = await db.query(
    `insert into leads.recent_contacts (domain, run_id)
     select distinct domain, run_id from leads.run_leads where run_id = $1 and domain is not null`,
    [runId],
  )
  return rowCount ?? 0
}
