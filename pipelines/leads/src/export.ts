/**
 * The result of a run as rows, and as CSV text that no spreadsheet executes.
 *
 * Rows are read in portions in order of rank, so a run of any size is exported in flat memory. A cell that begins like a formula
 * (`=`, `+`, `-`, `@`, a tab or a line break) is given a leading apostrophe, because company names come from strangers.
 */
import type { Db } from '@leasehold/queue'
import { RunNotFoundError } from './store/runs.ts'

/** A lead: a row of leads.run_leads. */
export type Lead = {
  readonly rank: number
  readonly company: string
  readonly domain: string | null
  readonly website: string | null
  readonly city: string | null
  readonly state: string | null
  readonly country: string | null
  readonly industry: string | null
  readonly phone: string | null
  readonly score: number
  readonly scoredBy: string
  readonly pms: string | null
  readonly pmsEvidence: string | null
  readonly contact: string | null
  readonly contactTitle: string | null
  readonly email: string
  readonly emailStatus: string
  readonly emailBasis: string
  readonly signals: readonly { readonly name: string; readonly points: number; readonly reason: string }[]
  readonly notes: readonly string[]
}

const PORTION = 1_000

/** Yields a run's leads, the best first. Throws RunNotFoundError. */
export async function* exportLeads(db: Db, runId: string): AsyncGenerator<Lead, void, void> {
  const run = await db.query('select from leads.runs where id = $1', [runId])
  if (run.rowCount === 0) throw new RunNotFoundError(runId)
  // The view ranks the whole run for every portion; a run is small beside that, and no cursor holds a snapshot open meanwhile.
  for (let after = 0; ;) {
    const { rows } = await db.query<Lead>(
      `select rank::int, company, domain, website, city, state, country, industry, phone, score, scored_by as "scoredBy", pms,
         pms_evidence as "pmsEvidence", contact, contact_title as "contactTitle", email, email_status as "emailStatus",
         email_basis as "emailBasis", signals, notes
       from leads.run_leads where run_id = $1 and rank > $2 order by rank limit $3`,
      [runId, after, PORTION],
    )
    yield* rows
    const last = rows.at(-1)
    if (last === undefined || rows.length < PORTION) return
    after = last.rank
  }
}

const COLUMNS: readonly (readonly [string, (lead: Lead) => string | number | null])[] = [
  ['rank', (lead) => lead.rank],
  ['company', (lead) => lead.company],
  ['website', (lead) => lead.website],
  ['domain', (lead) => lead.domain],
  ['city', (lead) => lead.city],
  ['state', (lead) => lead.state],
  ['country', (lead) => lead.country],
  ['industry', (lead) => lead.industry],
  ['phone', (lead) => lead.phone],
  ['score', (lead) => lead.score],
  ['scored by', (lead) => lead.scoredBy],
  ['pms', (lead) => lead.pms],
  ['pms evidence', (lead) => lead.pmsEvidence],
  ['contact', (lead) => lead.contact],
  ['contact title', (lead) => lead.contactTitle],
  ['email', (lead) => lead.email],
  ['email status', (lead) => lead.emailStatus],
  ['email basis', (lead) => lead.emailBasis],
  [
    'signals',
    (lead) => lead.signals.map((s) => `${s.points > 0 ? '+' : ''}${s.points} ${s.reason}`).join('; '),
  ],
  ['notes', (lead) => lead.notes.join('; ')],
]

/** Yields the lines of a CSV file (RFC 4180, CRLF, each with its line end), the header first. */
export async function* leadsCsv(leads: AsyncIterable<Lead>): AsyncGenerator<string, void, void> {
  yield `${COLUMNS.map(([name]) => name).join(',')}\r\n`
  for await (const lead of leads) yield `${COLUMNS.map(([, value]) => csvCell(value(lead))).join(',')}\r\n`
}

/** One cell: numbers as they are, text guarded against formulas and quoted where it must be. */
export function csvCell(value: string | number | null): string {
  if (value === null) return ''
  if (typeof value === 'number') return String(value)
  const guarded = /^[=+\-@\t\r\n]/.test(value) ? `'${value}` : value
  return /[",\r\n;]/.test(guarded) ? `"${guarded.replaceAll('"', '""')}"` : guarded
}
