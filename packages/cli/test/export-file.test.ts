/**
 * Exports into files: complete or not there, and harmless in a spreadsheet.
 */
import { registerStage, submitMany } from '@leasehold/queue'
import { mkdtemp, readFile, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { stages } from './fixtures/stages.ts'
import { leasehold } from './leasehold.ts'

let db: TestDatabase
let env: { DATABASE_URL: string }
let folder: string

beforeAll(async () => {
  db = await createTestDatabase()
  folder = await mkdtemp(join(tmpdir(), 'leasehold-export-'))
  env = { DATABASE_URL: db.url }
  for (const stage of stages) await registerStage(db.pool, stage)
  const titles = Array.from({ length: 2_500 }, (_, n) => ({
    payload: {},
    runId: 'many',
    title: `=SUM(${n})`,
  }))
  await submitMany(db.pool, 'echo', titles)
})
afterAll(async () => {
  await rm(folder, { recursive: true })
  await db.drop()
})

test('a file holds every row of a run that takes several pages, and no cell is a formula', async () => {
  const file = join(folder, 'many.csv')
  const { code, stdout, stderr } = await leasehold(['export', 'many', '-o', file], env)
  expect([code, stdout]).toEqual([0, ''])
  expect(stderr).toContain(`2500 tasks written to ${file}`)
  const lines = (await readFile(file, 'utf8')).trimEnd().split('\n')
  expect(lines).toHaveLength(2_501)
  expect(lines[1]).toContain(",'=SUM(0),")
  expect(await readdir(folder)).toEqual(['many.csv'])
})

test('a file that cannot be written leaves nothing and is an error with a hint', async () => {
  const { code, stderr } = await leasehold(['export', 'many', '-o', join(folder, 'no/such/folder.csv')], env)
  expect(code).toBe(1)
  expect(stderr).toMatch(/^error: .*ENOENT/)
  expect(stderr).toMatch(/^hint: /m)
})

test('--csv and --json together are wrong usage', async () => {
  const { code, stderr } = await leasehold(['export', 'many', '--csv', '--json'], env)
  expect(code).toBe(2)
  expect(stderr).toContain('exclude each other')
})
