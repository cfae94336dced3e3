/**
 * Chooses candidates among rows: those that match, are not blocked, and were not taken before.
 *
 * Invariant: at most `limit` candidates are ever taken in a run, counting those of earlier passes (`taken`), which is twice the
 * target: research and contacts lose some, and a run must not touch more companies than it needs. Where rows come from is
 * rows.ts and by-model.ts; storing the candidates is store/companies.ts, whose unique constraint has the last word.
 */
import { identityOf, type Company } from '../company.ts'
import type { Matcher } from './match.ts'

/** Twice as many candidates as leads are wanted. */
export const OVERSAMPLING = 2

/** What became of the rows. `unmatched` did not meet the criteria, `rejected` could not be read. */
export type RowCounts = {
  scanned: number
  rejected: number
  unmatched: number
  blocked: number
  duplicates: number
  candidates: number
}

/** What was decided about a company. */
export type Verdict = 'candidate' | 'unmatched' | 'blocked' | 'duplicate' | 'full'

/** A selection in progress; `offer` decides and counts. */
export type Selection = {
  readonly counts: RowCounts
  /** How many more candidates are wanted. */
  readonly room: () => number
  readonly offer: (company: Company) => Verdict
  /** Counts a row that could not be read. */
  readonly reject: () => void
}

/** All counts at zero. */
export function noRows(): RowCounts {
  return { scanned: 0, rejected: 0, unmatched: 0, blocked: 0, duplicates: 0, candidates: 0 }
}

/**
 * Begins a selection. `blocked` holds registrable domains, `taken` the identities of the run's candidates so far
 * (it grows by the new ones), `limit` is the most candidates the run may have.
 */
export function beginSelection(input: {
  readonly matches: Matcher
  readonly blocked: ReadonlySet<string>
  readonly taken: Set<string>
  readonly limit: number
}): Selection {
  const { matches, blocked, taken, limit } = input
  const counts = noRows()
  const decide = (company: Company): Verdict => {
    if (!matches(company)) return 'unmatched'
    if (company.domain !== null && blocked.has(company.domain)) return 'blocked'
    const identity = identityOf(company)
    if (taken.has(identity)) return 'duplicate'
    if (taken.size >= limit) return 'full'
    taken.add(identity)
    return 'candidate'
  }
  return {
    counts,
    room: () => limit - taken.size,
    offer: (company) => {
      const verdict = decide(company)
      if (verdict === 'full') return verdict
      counts.scanned++
      if (verdict === 'candidate') counts.candidates++
      else if (verdict === 'duplicate') counts.duplicates++
      else counts[verdict]++
      return verdict
    },
    reject: () => {
      counts.scanned++
      counts.rejected++
    },
  }
}
