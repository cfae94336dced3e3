/**
 * Holds the criteria's edge: what is accepted, what is refused, and that all problems are told at once.
 */
import { describe, expect, test } from 'vitest'
import { CriteriaInvalidError, parseCriteria } from '../src/criteria.ts'

describe('criteria', () => {
  test('a target alone is enough, and the minimum score has a default', () => {
    expect(parseCriteria({ target: 10 })).toEqual({ target: 10, minScore: 40 })
  })

  test('a PMS is accepted in any spelling and kept in the canonical one', () => {
    expect(parseCriteria({ target: 1, pms: 'app-folio' }).pms).toBe('AppFolio')
    expect(parseCriteria({ target: 1, pms: 'Oracle OPERA' }).pms).toBe('Opera')
  })

  test('every problem is reported at once, and an unknown PMS lists the known ones', () => {
    let error: unknown
    try {
      parseCriteria({ target: 0, citty: 'Austin', pms: 'Acme PMS', city: ' ' })
    } catch (thrown) {
      error = thrown
    }
    if (!(error instanceof CriteriaInvalidError)) throw new Error('not refused', { cause: error })
    expect(error.code).toBe('CRITERIA_INVALID')
    expect(error.problems.map((p) => p.path).toSorted()).toEqual(['', 'city', 'pms', 'target'])
    expect(error.message).toContain('citty')
    expect(error.message).toContain('AppFolio, Buildium')
  })

  test('a NUL byte is refused before it reaches Postgres', () => {
    expect(() => parseCriteria({ target: 1, city: 'Aus\u0000tin' })).toThrow(/control characters/)
  })
})
