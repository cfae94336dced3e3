/**
 * Holds the CSV a run is exported as: quoting, and that no cell is a formula.
 */
import { parse } from 'csv-parse/sync'
import { describe, expect, test } from 'vitest'
import { csvCell, leadsCsv, type Lead } from '../src/export.ts'

const lead: Lead = {
  rank: 1,
  company: '=HYPERLINK("https://evil.example")',
  domain: 'acme.example',
  website: null,
  city: 'Austin',
  state: 'TX',
  country: null,
  industry: 'Real "estate", other',
  phone: '+1 512 555 0100',
  score: 90,
  scoredBy: 'rules',
  pms: 'AppFolio',
  pmsEvidence: 'description',
  contact: '@cmd',
  contactTitle: '-2+3',
  email: 'jo@acme.example',
  emailStatus: 'unknown',
  emailBasis: 'pattern',
  signals: [
    { name: 'kind', points: 30, reason: 'says so' },
    { name: 'pms', points: -25, reason: 'other' },
  ],
  notes: ['line one\nline two', 'second'],
}

async function* leads(): AsyncGenerator<Lead> {
  yield lead
  yield await Promise.resolve({ ...lead, rank: 2 })
}

describe('the CSV', () => {
  test('reads back as it was written, with formulas defused', async () => {
    let text = ''
    for await (const line of leadsCsv(leads())) text += line
    const [header, first, second, ...rest] = parse(text)
    expect(rest).toEqual([])
    const row = Object.fromEntries((header ?? []).map((name, i) => [name, first?.[i]]))
    expect(row).toMatchObject({
      rank: '1',
      company: `'=HYPERLINK("https://evil.example")`,
      industry: 'Real "estate", other',
      phone: "'+1 512 555 0100",
      contact: "'@cmd",
      'contact title': "'-2+3",
      website: '',
      signals: "'+30 says so; -25 other",
      notes: 'line one\nline two; second',
    })
    expect(second?.[0]).toBe('2')
    expect(text.split('\r\n')).toHaveLength(4)
  })

  test.each(['=1+1', '+1', '-1', '@x', '\tx', '\rx', '\nx'])(
    'a cell that begins like a formula is guarded: %j',
    (value) => {
      expect(csvCell(value).replace(/^"/, '').startsWith("'")).toBe(true)
    },
  )

  test('numbers and plain text stay as they are', () => {
    expect([csvCell(-5), csvCell('Acme'), csvCell(null)]).toEqual(['-5', 'Acme', ''])
  })
})
