/**
 * Holds the choice of candidates: criteria, blocked domains, duplicates, and twice the target at most.
 */
import { describe, expect, test } from 'vitest'
import type { Company } from '../src/company.ts'
import { parseCriteria } from '../src/criteria.ts'
import { createMatcher, uncheckedCriteria } from '../src/discovery/match.ts'
import { beginSelection } from '../src/discovery/select.ts'
import { company } from './fixtures.ts'

const everywhere = { city: true, state: true, country: true }

function matches(criteria: Record<string, unknown>, facts: Partial<Company>, known = everywhere): boolean {
  return createMatcher(parseCriteria({ target: 1, ...criteria }), known)(company({ name: 'Acme', ...facts }))
}

describe('matching', () => {
  test('kind is found whatever its ending, at the beginning of words only', () => {
    expect(matches({ kind: 'property management' }, { description: 'We are property managers' })).toBe(true)
    expect(matches({ kind: 'property management' }, { industry: 'Managing properties' })).toBe(true)
    expect(matches({ kind: 'hotels' }, { name: 'Grand Hotel' })).toBe(true)
    expect(matches({ kind: 'rent' }, { description: 'a parent company' })).toBe(false)
    expect(matches({ kind: 'property management' }, { description: 'property insurance' })).toBe(false)
  })

  test('places match in any spelling; an empty cell does not', () => {
    expect(matches({ city: 'austin', state: 'tx' }, { city: 'AUSTIN', state: 'Texas' })).toBe(true)
    expect(matches({ city: 'austin' }, { city: null })).toBe(false)
    expect(matches({ country: 'US' }, { country: 'United States of America' })).toBe(true)
  })

  test('a criterion without a column excludes nobody and is reported', () => {
    const known = { city: true, state: false, country: false }
    expect(matches({ state: 'TX' }, {}, known)).toBe(true)
    expect(uncheckedCriteria(parseCriteria({ target: 1, state: 'TX', city: 'Austin' }), known)).toEqual([
      'the directory has no state column; "TX" was not checked',
    ])
  })

  test('a row that names another system is out, one that names none is left to research', () => {
    expect(matches({ pms: 'AppFolio' }, { pms: 'buildium' })).toBe(false)
    expect(matches({ pms: 'AppFolio' }, { pms: 'Appfolio' })).toBe(true)
    expect(matches({ pms: 'AppFolio' }, { pms: null })).toBe(true)
    expect(matches({ pms: 'AppFolio' }, { pms: 'something of our own' })).toBe(true)
  })
})

describe('selection', () => {
  test('leaves out blocked domains and duplicates, and stops at the limit', () => {
    const taken = new Set(['domain:old.example'])
    const selection = beginSelection({
      matches: (c) => c.city === 'Austin',
      blocked: new Set(['blocked.example']),
      taken,
      limit: 3,
    })
    const offer = (name: string, domain: string | null, city = 'Austin') =>
      selection.offer(company({ name, domain, city }))
    expect(offer('A', 'a.example')).toBe('candidate')
    expect(offer('A again', 'a.example')).toBe('duplicate')
    expect(offer('Old', 'old.example')).toBe('duplicate')
    expect(offer('B', 'blocked.example')).toBe('blocked')
    expect(offer('C', 'c.example', 'Dallas')).toBe('unmatched')
    expect(offer('D LLC', null)).toBe('candidate')
    expect(selection.room()).toBe(0)
    expect(offer('E', 'e.example')).toBe('full')
    expect(offer('d, inc.', null)).toBe('duplicate')
    selection.reject()
    expect(selection.counts).toEqual({
      scanned: 8,
      rejected: 1,
      unmatched: 1,
      blocked: 1,
      duplicates: 3,
      candidates: 2,
    })
  })
})
