/**
 * Decides whether a company meets the criteria, from what its source says alone.
 *
 * A criterion a directory has no column for cannot be checked: it does not exclude anybody and is reported by
 * `uncheckedCriteria`, so that the result can say so. A column that is there but empty in a row is a "no".
 * How well a company fits, beyond yes and no, is research/icp.ts.
 */
import type { Company } from '../company.ts'
import type { Criteria } from '../criteria.ts'
import { canonicalCity, canonicalCountry, canonicalState, fold } from '../places.ts'
import { findFingerprint } from '../research/fingerprints.ts'
import type { Field } from './column-names.ts'
import type { ColumnMap } from './header.ts'

/** Which of a company's fields its source can fill at all. */
export type KnownFields = { readonly city: boolean; readonly state: boolean; readonly country: boolean }

/** A test for companies, prepared once per run. */
export type Matcher = (company: Company) => boolean

/** The fields the columns of a directory can fill. */
export function knownFields(columns: ColumnMap): KnownFields {
  const has = (field: Field) => columns.fields[field] !== undefined || columns.fields.location !== undefined
  return { city: has('city'), state: has('state'), country: has('country') }
}

/** The criteria which `known` cannot answer, as sentences for the run's notes. */
export function uncheckedCriteria(criteria: Criteria, known: KnownFields): string[] {
  const places = ['city', 'state', 'country'] as const
  return places
    .filter((place) => criteria[place] !== undefined && !known[place])
    .map((place) => `the directory has no ${place} column; "${criteria[place]}" was not checked`)
}

/** Prepares the test of `criteria` for companies from a source which fills `known`. */
export function createMatcher(criteria: Criteria, known: KnownFields): Matcher {
  const city = criteria.city === undefined || !known.city ? null : canonicalCity(criteria.city)
  const state = criteria.state === undefined || !known.state ? null : canonicalState(criteria.state)
  const country = criteria.country === undefined || !known.country ? null : canonicalCountry(criteria.country)
  const kind = criteria.kind === undefined ? [] : stems(criteria.kind)
  return (company) =>
    (city === null || (company.city !== null && canonicalCity(company.city) === city)) &&
    (state === null || (company.state !== null && canonicalState(company.state) === state)) &&
    (country === null || (company.country !== null && canonicalCountry(company.country) === country)) &&
    (kind.length === 0 || containsStems(kindText(company), kind)) &&
    (criteria.pms === undefined || namesNoOtherPms(company, criteria.pms))
}

/** Whether the text of `company` holds every word of `kind`, whatever its ending (`manager`, `management`, `managing`). */
export function matchesKind(company: Company, kind: string): boolean {
  return containsStems(kindText(company), stems(kind))
}

/** A directory that names the system settles the question; one that does not leaves it to research. */
function namesNoOtherPms(company: Company, wanted: string): boolean {
  if (company.pms === null) return true
  const named = findFingerprint(company.pms)
  return named === undefined || named.name === wanted
}

function kindText(company: Company): string {
  const { name, industry, description } = company
  return ` ${fold([name, industry, description].filter((text) => text !== null).join(' '))}`
}

const ENDINGS = /(?:ements?|ments?|ings?|ations?|ions?|ers?|ors?|ies|es|s|y|e)$/

function stems(text: string): string[] {
  return fold(text)
    .split(' ')
    .filter((word) => word !== '' && word !== 'and' && word !== 'of' && word !== 'the')
    .map((word) => {
      const stem = word.replace(ENDINGS, '')
      return stem.length >= 4 ? stem : word.length > 4 ? word.slice(0, -1) : word
    })
}

/** A stem counts at the beginning of a word only: "rent" is not in "parent". */
function containsStems(text: string, wanted: readonly string[]): boolean {
  return wanted.every((stem) => text.includes(` ${stem}`))
}
