/**
 * What research and contact search found, in the database: many companies in one statement.
 *
 * Invariant: a row is only ever replaced by one with a higher fence, so a worker whose lease is gone changes nothing once its
 * successor wrote, and writing twice leaves one row. Collecting the findings of many handlers is batch.ts; reading results is export.ts.
 */
import type { Db } from '@leasehold/queue'
import type { Contact, ContactFinding } from '../contacts/find.ts'
import type { Research } from '../research/research.ts'

/** Whose finding it is: the company, its run, and the fence of the task that found it. */
export type FindingKey = { readonly companyId: string; readonly runId: string; readonly fence: string }

/** Writes what research found of several companies. */
export async function writeResearch(
  db: Db,
  findings: readonly (FindingKey & { readonly research: Research })[],
): Promise<void> {
  const rows = findings.map(({ companyId, runId, fence, research }) => ({
    company_id: companyId,
    run_id: runId,
    fence,
    score: research.score,
    signals: research.signals,
    scored_by: research.scoredBy,
    pms: research.pms?.name,
    pms_evidence: research.pms?.evidence,
    pms_detail: research.pms?.detail,
    pms_status: research.pmsStatus,
    site: research.site ?? undefined,
    qualified: research.qualified,
    verdict: research.verdict,
    notes: research.notes,
  }))
  await db.query({
    name: 'leads_write_research',
    text: `insert into leads.research as old (company_id, run_id, fence, score, signals, scored_by, pms, pms_evidence, pms_detail,
        pms_status, site, qualified, verdict, notes)
      select x.company_id, x.run_id, x.fence, x.score, x.signals, x.scored_by, x.pms, x.pms_evidence, x.pms_detail, x.pms_status,
        x.site, x.qualified, x.verdict, x.notes
      from json_to_recordset($1::json) as x(company_id bigint, run_id text, fence bigint, score smallint, signals jsonb,
        scored_by text, pms text, pms_evidence text, pms_detail text, pms_status text, site jsonb, qualified boolean, verdict text,
        notes text[])
      where exists (select from leads.companies c where c.id = x.company_id)
      on conflict (company_id) do update set fence = excluded.fence, score = excluded.score, signals = excluded.signals,
        scored_by = excluded.scored_by, pms = excluded.pms, pms_evidence = excluded.pms_evidence,
        pms_detail = excluded.pms_detail, pms_status = excluded.pms_status, site = excluded.site,
        qualified = excluded.qualified, verdict = excluded.verdict, notes = excluded.notes, researched_at = clock_timestamp()
      where old.fence < excluded.fence`,
    values: [jsonText(rows)],
  })
}

/** Writes the contacts found for several companies, best first, and that they were looked for. */
export async function writeContacts(
  db: Db,
  findings: readonly (FindingKey & { readonly found: ContactFinding })[],
): Promise<void> {
  const searches = findings.map(({ companyId, runId, fence, found }) => ({
    company_id: companyId,
    run_id: runId,
    fence,
    found: found.contacts.length > 0,
    notes: found.notes,
  }))
  const contacts = findings.flatMap(({ companyId, found }) =>
    found.contacts.map((contact, i) => contactRow(companyId, contact, i)),
  )
  await db.query({
    name: 'leads_write_contacts',
    text: `with offered as materialized (
        select * from json_to_recordset($2::json) as x(company_id bigint, email text, position smallint, name text, title text,
          decision_rank smallint, source text, basis text, email_status text, email_reason text)
      ), accepted as (
        insert into leads.contact_searches as old (company_id, run_id, fence, found, notes)
        select x.company_id, x.run_id, x.fence, x.found, x.notes
        from json_to_recordset($1::json) as x(company_id bigint, run_id text, fence bigint, found boolean, notes text[])
        where exists (select from leads.companies c where c.id = x.company_id)
        on conflict (company_id) do update set fence = excluded.fence, found = excluded.found, notes = excluded.notes,
          searched_at = clock_timestamp()
        where old.fence < excluded.fence
        returning company_id
      ), gone as (
        delete from leads.contacts k using accepted a
        where k.company_id = a.company_id
          and not exists (select from offered o where o.company_id = k.company_id and o.email = k.email)
      )
      insert into leads.contacts (company_id, email, position, name, title, decision_rank, source, basis, email_status, email_reason)
      select o.company_id, o.email, o.position, o.name, o.title, o.decision_rank, o.source, o.basis, o.email_status, o.email_reason
      from offered o join accepted a on a.company_id = o.company_id
      on conflict (company_id, email) do update set position = excluded.position, name = excluded.name, title = excluded.title,
        decision_rank = excluded.decision_rank, source = excluded.source, basis = excluded.basis,
        email_status = excluded.email_status, email_reason = excluded.email_reason`,
    values: [jsonText(searches), jsonText(contacts)],
  })
}

function contactRow(companyId: string, contact: Contact, index: number): Record<string, unknown> {
  return {
    company_id: companyId,
    email: contact.email,
    position: index + 1,
    name: contact.name,
    title: contact.title,
    decision_rank: contact.rank,
    source: contact.source,
    basis: contact.basis,
    email_status: contact.status,
    email_reason: contact.reason,
  }
}

/** JSON without NUL characters and lone surrogates, which pages may hold and Postgres refuses. */
function jsonText(value: unknown): string {
  return JSON.stringify(value, (_key, inner: unknown) =>
    typeof inner === 'string' ? inner.replaceAll('\u0000', '').toWellFormed() : inner,
  )
}
