/**
 * `leasehold start` for a newcomer who does not start from nothing: a stage that was paused, a fleet that runs already.
 *
 * The tour from nothing is test/readme.test.ts.
 */
import { migrate } from '@leasehold/postgres'
import { leadsMigrations } from '@leasehold/pipeline-leads'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { type TestProcess, spawnProcess } from '../../../test/harness/processes.ts'
import { bin, leasehold } from './leasehold.ts'

let db: TestDatabase
let folder: string
let source: string
let first: TestProcess

beforeAll(async () => {
  db = await createTestDatabase()
  await migrate(db.pool, { set: leadsMigrations })
  folder = await mkdtemp(join(tmpdir(), 'leasehold-start-'))
  source = join(folder, 'companies.csv')
  await writeFile(source, 'company,city,state\nMade Up Company,Austin,TX\n')
  await db.pool.query("select leasehold.pause_stage('company_discovery')")
  first = start()
})
afterAll(async () => {
  first.kill('SIGKILL')
  await first.exit
  await db.drop()
  await rm(folder, { recursive: true, force: true })
})

function start(...args: string[]): TestProcess {
  return spawnProcess({
    script: bin,
    args: ['start', '--source', source, '--target', '1', ...args],
    env: { DATABASE_URL: db.url },
    cwd: folder,
  })
}

test('a paused stage is named with the command that lets the run go on', { timeout: 120_000 }, async () => {
  const line = await first.waitForLine(/waiting: /)
  const [, command] = /stage company_discovery is paused; to go on: npx leasehold (.*)$/.exec(line)!
  expect(first.output()).not.toContain('everything keeps running')
  expect((await leasehold(command!.split(' '), { DATABASE_URL: db.url })).code).toBe(0)
  await first.waitForLine(/everything keeps running/)
})

test(
  'a second start gives its run to the workers there are and takes no slot',
  { timeout: 120_000 },
  async () => {
    await first.waitForLine(/everything keeps running/)
    const second = start('--once')
    await second.waitForLine(/^workers +run already and get this run too: .*company_discovery@/)
    expect(await second.exit).toEqual({ code: 0, signal: null })
    expect(second.output()).toContain('the workers go on where they were started')
    const { rows } = await db.pool.query(
      'select restarts, count(*)::integer as n from leasehold.workers group by 1',
    )
    expect(rows).toEqual([{ restarts: 0, n: 3 }])
    first.kill('SIGINT')
    expect(await first.exit).toEqual({ code: 0, signal: null })
  },
)
