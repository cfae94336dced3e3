/**
 * Holds the ICP score: the sum of its explained signals, and what moves it up and down.
 */
import { describe, expect, test } from 'vitest'
import type { Company } from '../src/company.ts'
import { parseCriteria } from '../src/criteria.ts'
import { scoreByRules } from '../src/research/icp.ts'
import { readPage, type PageFacts } from '../src/research/page.ts'
import { detectPms } from '../src/research/pms.ts'
import { company } from './fixtures.ts'

const asked = { target: 1, city: 'Austin', state: 'TX', kind: 'property management' }

function score(
  facts: Partial<Company>,
  criteria: Record<string, unknown> = asked,
  page: PageFacts | null = null,
) {
  const row = company(facts)
  return scoreByRules({
    company: row,
    criteria: parseCriteria(criteria),
    page,
    pms: detectPms(row, page, ''),
  })
}

const good: Partial<Company> = {
  domain: 'acme.example',
  city: 'Austin',
  state: 'Texas',
  description: 'Property management of 1,200 units. Residents pay through AppFolio.',
  employees: 40,
  phone: '+1 512 555 0100',
  contactName: 'Jo Doe',
}

describe('the score', () => {
  test('is the sum of its signals, and every signal says why', () => {
    const { score: total, signals, scoredBy } = score(good)
    expect(total).toBe(signals.reduce((sum, signal) => sum + signal.points, 0))
    expect(scoredBy).toBe('rules')
    expect(signals.map((s) => s.name)).toEqual([
      'kind',
      'location',
      'pms',
      'presence',
      'size',
      'reachable',
      'decision maker',
    ])
    expect(signals.every((s) => s.reason !== '')).toBe(true)
    expect(signals.find((s) => s.name === 'size')?.reason).toContain('1,200 units')
  })

  test('stays between 0 and 100', () => {
    expect(
      score(
        { ...good, description: 'Permanently closed.', name: 'X' },
        { ...asked, pms: 'Yardi', kind: 'dentist' },
      ).score,
    ).toBe(5)
    expect(
      score({ name: 'X', description: 'out of business', city: 'Dallas' }, { ...asked, kind: 'dentist' })
        .score,
    ).toBe(0)
    expect(
      score(good, { ...asked, pms: 'AppFolio' }, readPage('https://acme.example', '<p>property management'))
        .score,
    ).toBe(100)
  })

  test('a wanted system counts more than any, another one counts against', () => {
    const any = score(good).score
    const wanted = score(good, { ...asked, pms: 'AppFolio' }).score
    const other = score(good, { ...asked, pms: 'Yardi' }).score
    expect(wanted - any).toBe(10)
    expect(other - any).toBe(-40)
  })

  test('a parked site counts against, a site that answers for', () => {
    const parked = readPage(
      'https://acme.example',
      '<title>acme.example</title><h1>This domain is for sale</h1>',
    )
    const real = readPage('https://acme.example', '<h1>Acme</h1><p>Property management in Austin')
    expect(score(good, asked, parked).signals.find((s) => s.name === 'presence')?.points).toBe(-30)
    expect(score(good, asked, real).signals.find((s) => s.name === 'presence')?.points).toBe(15)
  })

  test('what was not asked for counts as met', () => {
    const { signals } = score({ name: 'X' }, { target: 1 })
    expect(signals.filter((s) => s.points > 0).map((s) => s.name)).toEqual(['kind', 'location'])
  })
})
