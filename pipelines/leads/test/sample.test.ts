/**
 * Holds the sample directory to what its README says: generated, made up, and showing every case a real one has.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { isReservedName } from '@leasehold/stages'
import { expect, test } from 'vitest'
import { sampleDirectory } from '../sample/generate.ts'
import { parseCriteria } from '../src/criteria.ts'
import { openDirectory } from '../src/discovery/directory.ts'
import { createMatcher, knownFields } from '../src/discovery/match.ts'
import { readRows } from '../src/discovery/rows.ts'
import { beginSelection } from '../src/discovery/select.ts'

const folder = join(import.meta.dirname, '../sample')
const path = join(folder, 'companies.csv')

test('the committed file is what the generator writes', async () => {
  expect(await readFile(path, 'utf8')).toBe(sampleDirectory())
})

test('it has 300 rows and more, all of reserved domains, with duplicates, blocked domains and malformed lines', async () => {
  const directory = await openDirectory(path)
  const suppressed = (await readFile(join(folder, 'suppressed-domains.txt'), 'utf8')).trim().split('\n')
  const criteria = parseCriteria({ city: 'Austin', state: 'TX', kind: 'property management', target: 1000 })
  const selection = beginSelection({
    matches: createMatcher(criteria, knownFields(directory.columns)),
    blocked: new Set(suppressed),
    taken: new Set(),
    limit: 2000,
  })
  for await (const row of readRows(directory)) {
    if (!('company' in row)) {
      selection.reject()
      continue
    }
    const { domain, phone } = row.company
    expect(domain === null || isReservedName(domain)).toBe(true)
    expect(phone ?? '555 01').toContain('555 01')
    selection.offer(row.company)
  }
  const { scanned, rejected, blocked, duplicates, candidates } = selection.counts
  expect(scanned).toBeGreaterThanOrEqual(300)
  expect(rejected).toBeGreaterThanOrEqual(4)
  expect(blocked).toBe(suppressed.length)
  expect(duplicates).toBeGreaterThanOrEqual(3)
  expect(candidates).toBeGreaterThanOrEqual(100)
})
