/**
 * Researches one company: reads its site if it can, detects its system, scores its fit, decides whether it qualifies.
 *
 * Never fails because of the company: a site that cannot be read means less evidence and a note. It writes nothing; the stage does.
 * Throws ModelBusyError when the model should be asked later, and the signal's reason when the attempt is over.
 */
import type { Model, PageOutcome, Web } from '@leasehold/stages'
import type { Company } from '../company.ts'
import { findPeople, type Person } from '../contacts/people.ts'
import type { Criteria } from '../criteria.ts'
import { scoreByRules, type IcpScore } from './icp.ts'
import { scoreByModel } from './icp-by-model.ts'
import { readPage, type PageFacts } from './page.ts'
import { detectPms, type PmsFinding } from './pms.ts'

/** What research needs. `web` null: no page is fetched at all. */
export type ResearchTools = { readonly web: Web | null; readonly model: Model | null }

/** What the company's own site gave, for the contact stage. */
export type SiteFacts = {
  readonly url: string
  readonly title: string | null
  readonly emails: readonly string[]
  readonly phones: readonly string[]
  readonly people: readonly Person[]
  /** Pages that are likely to name people, best first. */
  readonly peoplePages: readonly string[]
}

/** `detected`; `none seen` after reading the site; `unknown` when nobody could look. */
export type PmsStatus = 'detected' | 'none seen' | 'unknown'

/** The result of research. */
export type Research = IcpScore & {
  readonly pms: PmsFinding | null
  readonly pmsStatus: PmsStatus
  readonly site: SiteFacts | null
  readonly qualified: boolean
  /** Why it qualifies or does not. */
  readonly verdict: string
  /** What was not available, for the result. */
  readonly notes: readonly string[]
}

/** Researches `company` for a run's criteria. */
export async function researchCompany(
  tools: ResearchTools,
  company: Company,
  criteria: Criteria,
  signal: AbortSignal,
): Promise<Research> {
  const notes: string[] = []
  const fetched = await fetchSite(tools.web, company, signal)
  if (fetched.note !== null) notes.push(fetched.note)
  const { page, html } = fetched
  const pms = detectPms(company, page, html)
  const facts = { company, criteria, page, pms }
  const advice = await scoreByModel(tools.model, facts, signal)
  if (advice.note !== null) notes.push(advice.note)
  const icp = advice.value ?? scoreByRules(facts)
  const pmsStatus = pms !== null ? 'detected' : page !== null ? 'none seen' : 'unknown'
  return {
    ...icp,
    pms,
    pmsStatus,
    site: page === null ? null : siteFacts(page),
    ...judge(criteria, icp, pms, pmsStatus),
    notes,
  }
}

/** A wanted system must have been seen: a lead list for one system that holds companies of any is not what was asked for. */
function judge(
  criteria: Criteria,
  icp: IcpScore,
  pms: PmsFinding | null,
  pmsStatus: PmsStatus,
): Pick<Research, 'qualified' | 'verdict'> {
  if (criteria.pms !== undefined && pms?.name !== criteria.pms) {
    const seen = {
      detected: `${pms?.name} was detected`,
      'none seen': 'none was seen',
      unknown: 'nobody could look',
    }
    return { qualified: false, verdict: `${criteria.pms} was asked for, ${seen[pmsStatus]}` }
  }
  const enough = icp.score >= criteria.minScore
  return {
    qualified: enough,
    verdict: `score ${icp.score}, ${criteria.minScore} ${enough ? 'is enough' : 'is needed'}`,
  }
}

async function fetchSite(
  web: Web | null,
  company: Company,
  signal: AbortSignal,
): Promise<{ page: PageFacts | null; html: string; note: string | null }> {
  if (company.website === null) return { page: null, html: '', note: null }
  if (web === null) return { page: null, html: '', note: 'its site was not read: fetching is off' }
  let outcome = await web.page(company.website, { signal })
  // A directory that leaves the scheme out means "the site", also where it has no TLS.
  if (outcome.outcome === 'unavailable' && (outcome.reason === 'connect' || outcome.reason === 'protocol')) {
    const plain = company.website.replace(/^https:/, 'http:')
    if (plain !== company.website) outcome = await web.page(plain, { signal })
  }
  if (outcome.outcome !== 'ok') return { page: null, html: '', note: siteNote(outcome) }
  return { page: readPage(outcome.url, outcome.text), html: outcome.text, note: null }
}

function siteNote(outcome: Exclude<PageOutcome, { outcome: 'ok' }>): string {
  return `its site was not read: ${outcome.outcome === 'refused' ? 'refused, ' : ''}${outcome.detail}`
}

function siteFacts(page: PageFacts): SiteFacts {
  return {
    url: page.url,
    title: page.title,
    emails: page.emails.slice(0, 20),
    phones: page.phones.slice(0, 10),
    people: findPeople(page).slice(0, 10),
    peoplePages: peoplePages(page),
  }
}

const PEOPLE_PAGES: readonly RegExp[] = [
  /\b(?:our[ -]?)?(?:team|staff|people|leadership|management[ -]team|who[ -]we[ -]are|meet)\b/i,
  /\babout\b/i,
  /\bcontact\b/i,
]

/** Links to pages of the same host which are likely to name people, best first, at most three. */
function peoplePages(page: PageFacts): string[] {
  const { host } = new URL(page.url)
  const ranked = page.links
    .map((link) => ({ href: link.href, rank: rankOf(`${link.text} ${new URL(link.href).pathname}`) }))
    .filter(({ href, rank }) => rank >= 0 && new URL(href).host === host && href !== page.url)
    .toSorted((a, b) => a.rank - b.rank)
  return [...new Set(ranked.map(({ href }) => href))].slice(0, 3)
}

function rankOf(text: string): number {
  return PEOPLE_PAGES.findIndex((pattern) => pattern.test(text))
}
