/**
 * Scores how well a company fits the ideal customer profile (ICP) of a run, by rules: 0 to 100, with every point explained.
 *
 * The score is the sum of its signals, cut to the range; a signal says its points and its reason in words. What a run did not ask for
 * counts as met. With a model the score comes from icp-by-model.ts instead, in the same form.
 */
import type { Company } from '../company.ts'
import type { Criteria } from '../criteria.ts'
import { matchesKind } from '../discovery/match.ts'
import { canonicalCity, canonicalCountry, canonicalState } from '../places.ts'
import type { PageFacts } from './page.ts'
import type { PmsFinding } from './pms.ts'

/** One reason for or against a company. */
export type Signal = { readonly name: string; readonly points: number; readonly reason: string }

/** The fit of a company. `scoredBy` tells which of the two judges spoke. */
export type IcpScore = {
  readonly score: number
  readonly signals: readonly Signal[]
  readonly scoredBy: 'rules' | 'model'
}

/** What the rules look at; `page` is null when the site was not read. */
export type IcpFacts = {
  readonly company: Company
  readonly criteria: Criteria
  readonly page: PageFacts | null
  readonly pms: PmsFinding | null
}

/** Scores by rules. */
export function scoreByRules(facts: IcpFacts): IcpScore {
  const signals = [kind, location, system, presence, size, reachable, decisionMaker, closed]
    .map((rule) => rule(facts))
    .filter((signal) => signal !== null)
  const sum = signals.reduce((total, signal) => total + signal.points, 0)
  return { score: Math.max(0, Math.min(100, sum)), signals, scoredBy: 'rules' }
}

function kind({ company, criteria, page }: IcpFacts): Signal {
  const name = 'kind'
  if (criteria.kind === undefined) return { name, points: 30, reason: 'any kind of company was asked for' }
  if (matchesKind(company, criteria.kind)) {
    return { name, points: 30, reason: `name, industry or description says "${criteria.kind}"` }
  }
  const onSite = page !== null && matchesKind({ ...company, description: page.text }, criteria.kind)
  if (onSite) return { name, points: 25, reason: `its site says "${criteria.kind}"` }
  return { name, points: 0, reason: `nothing says "${criteria.kind}"` }
}

function location({ company, criteria }: IcpFacts): Signal {
  const name = 'location'
  const asked = [
    [criteria.city, company.city, canonicalCity],
    [criteria.state, company.state, canonicalState],
    [criteria.country, company.country, canonicalCountry],
  ] as const
  const wanted = asked.filter(([want]) => want !== undefined)
  if (wanted.length === 0) return { name, points: 15, reason: 'any place was asked for' }
  const met = wanted.filter(
    ([want, have, canonical]) => have !== null && canonical(have) === canonical(want ?? ''),
  )
  const unknown = wanted.filter(([, have]) => have === null)
  if (met.length === wanted.length)
    return { name, points: 15, reason: `is in ${met.map(([want]) => want).join(', ')}` }
  if (met.length + unknown.length === wanted.length)
    return { name, points: 5, reason: 'its place is not fully known' }
  return { name, points: 0, reason: 'is in another place' }
}

function system({ criteria, pms }: IcpFacts): Signal {
  const name = 'pms'
  if (pms === null) return { name, points: 0, reason: 'no property-management system was detected' }
  const seen = `${pms.name} by ${pms.evidence} (${pms.detail})`
  if (criteria.pms === undefined) return { name, points: 15, reason: `runs ${seen}` }
  if (pms.name === criteria.pms) return { name, points: 25, reason: `runs the wanted ${seen}` }
  return { name, points: -25, reason: `runs ${seen}, wanted was ${criteria.pms}` }
}

const PARKED =
  /\b(?:domain (?:name )?is for sale|buy this domain|this domain is parked|domain parking|website coming soon|under construction)\b/i

function presence({ company, page }: IcpFacts): Signal {
  const name = 'presence'
  if (page !== null) {
    const parked = PARKED.exec(`${page.title ?? ''} ${page.text.slice(0, 2_000)}`)
    if (parked !== null && page.text.length < 3_000) {
      return { name, points: -30, reason: `its site is a placeholder ("${parked[0].toLowerCase()}")` }
    }
    return { name, points: 15, reason: 'has a site of its own that answers' }
  }
  if (company.domain !== null) return { name, points: 10, reason: `has the domain ${company.domain}` }
  return { name, points: 0, reason: 'has no domain of its own' }
}

const UNITS =
  /(\d{1,3}(?:,\d{3})+|\d{2,6})\+? (?:residential |rental |managed |apartment |vacation )?(?:units|doors|apartments|homes|properties|rentals|rooms)\b/i

function size({ company, page }: IcpFacts): Signal | null {
  const name = 'size'
  const portfolio = UNITS.exec(company.description ?? '') ?? (page === null ? null : UNITS.exec(page.text))
  if (portfolio !== null) return { name, points: 10, reason: `speaks of ${portfolio[0].toLowerCase()}` }
  if (company.employees === null) return null
  if (company.employees >= 5 && company.employees <= 500) {
    return { name, points: 10, reason: `has ${company.employees} employees or a little more` }
  }
  return { name, points: 3, reason: `has ${company.employees} employees, outside 5 to 500` }
}

function reachable({ company, page }: IcpFacts): Signal | null {
  const name = 'reachable'
  if (company.email !== null || company.phone !== null)
    return { name, points: 5, reason: 'the directory has a phone or e-mail' }
  if (page !== null && page.emails.length + page.phones.length > 0) {
    return { name, points: 5, reason: 'its site publishes a phone or e-mail' }
  }
  return null
}

function decisionMaker({ company }: IcpFacts): Signal | null {
  if (company.contactName === null) return null
  return { name: 'decision maker', points: 5, reason: `the directory names ${company.contactName}` }
}

const CLOSED = /\b(?:permanently closed|out of business|no longer in business|ceased operations|dissolved)\b/i

function closed({ company, page }: IcpFacts): Signal | null {
  const found =
    CLOSED.exec(company.description ?? '') ?? (page === null ? null : CLOSED.exec(page.text.slice(0, 2_000)))
  return found === null ? null : { name: 'closed', points: -40, reason: `"${found[0].toLowerCase()}"` }
}
