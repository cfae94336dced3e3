/**
 * Candidates in the database: inserting them by the thousand, reading them for the stages.
 *
 * Invariant: a company is in a run once (`companies_are_unique_in_a_run`); offering it again inserts nothing, so a slice may be
 * worked twice. One statement per slice, whatever its size. Choosing candidates is discovery/select.ts.
 */
import type { Db, Tx } from '@leasehold/queue'
import { identityOf, type Company } from '../company.ts'
import type { SiteFacts } from '../research/research.ts'

/** A company with the line it came from. */
export type Candidate = { readonly company: Company; readonly line: number | null }

/** Inserts candidates; returns those that are new, with their ids. Part of the slice's transaction. */
export async function insertCandidates(
  tx: Tx,
  runId: string,
  candidates: readonly Candidate[],
): Promise<{ id: string; name: string }[]> {
  if (candidates.length === 0) return []
  const rows = candidates.map(({ company: c, line }) => ({
    identity: identityOf(c),
    name: c.name,
    domain: c.domain,
    website: c.website,
    city: c.city,
    state: c.state,
    country: c.country,
    industry: c.industry,
    description: c.description,
    phone: c.phone,
    email: c.email,
    employees: c.employees,
    pms: c.pms,
    contact_name: c.contactName,
    contact_title: c.contactTitle,
    extra: c.extra,
    source_line: line,
  }))
  const inserted = await tx.query<{ id: string; name: string }>({
    name: 'leads_insert_candidates',
    text: `insert into leads.companies (run_id, identity, name, domain, website, city, state, country, industry, description,
        phone, email, employees, pms, contact_name, contact_title, extra, source_line)
      select $1, identity, name, domain, website, city, state, country, industry, description, phone, email, employees, pms,
        contact_name, contact_title, coalesce(extra, '{}'), source_line
      from json_to_recordset($2::json) as x(identity text, name text, domain text, website text, city text, state text,
        country text, industry text, description text, phone text, email text, employees integer, pms text, contact_name text,
        contact_title text, extra jsonb, source_line bigint)
      on conflict (run_id, identity) do nothing
      returning id::text, name`,
    values: [runId, JSON.stringify(rows)],
  })
  return inserted.rows
}

/** The most rejected lines kept per run. */
const MAX_REJECTED = 1_000

/** Keeps lines that could not be read, up to 1,000 per run. Part of the slice's transaction. */
export async function insertRejected(
  tx: Tx,
  runId: string,
  rejected: readonly { readonly line: number; readonly problem: string }[],
): Promise<void> {
  if (rejected.length === 0) return
  await tx.query(
    `insert into leads.rejected_rows (run_id, line, problem)
     select $1, line, problem from json_to_recordset($2::json) as x(line bigint, problem text)
     order by line
     limit greatest(0, $3 - (select count(*) from leads.rejected_rows where run_id = $1))
     on conflict (run_id, line) do nothing`,
    [runId, JSON.stringify(rejected.slice(0, MAX_REJECTED)), MAX_REJECTED],
  )
}

/** Names or domains of a run's candidates, the latest last; for a model, so that it does not name them again. */
export async function candidateNames(db: Db, runId: string): Promise<string[]> {
  const { rows } = await db.query<{ name: string }>(
    'select coalesce(domain, name) as name from leads.companies where run_id = $1 order by id desc limit 300',
    [runId],
  )
  return rows.map((row) => row.name).toReversed()
}

/** A candidate with what research read of its site; `site` is null before research, and when it read none. */
export type KnownCompany = { readonly company: Company; readonly site: SiteFacts | null }

/** Reads candidates by id, in the order asked for; null for one that (or whose run) was deleted. */
export async function readCompanies(db: Db, ids: readonly string[]): Promise<(KnownCompany | null)[]> {
  const { rows } = await db.query<Company & { id: string; site: SiteFacts | null }>({
    name: 'leads_read_companies',
    text: `select c.id::text, c.name, c.domain, c.website, c.city, c.state, c.country, c.industry, c.description, c.phone, c.email,
        c.employees, c.pms, c.contact_name as "contactName", c.contact_title as "contactTitle", x.site
      from leads.companies c
      left join leads.research x on x.company_id = c.id
      where c.id = any($1::bigint[])`,
    values: [ids],
  })
  const byId = new Map(
    rows.map(({ id, site, ...company }) => [id, { company: { ...company, extra: {} }, site }] as const),
  )
  return ids.map((id) => byId.get(id) ?? null)
}
