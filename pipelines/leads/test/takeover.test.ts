/**
 * Kills a discovery worker for real, in the middle of a directory, and lets another one go on.
 *
 * What must hold: every row is counted once, every company is in the run once and handed to research once.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { runProgress } from '@leasehold/queue'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { TestDatabase } from '../../../test/harness/database.ts'
import { spawnProcess } from '../../../test/harness/processes.ts'
import { runStatus, startRun } from '../src/index.ts'
import type { Research } from '../src/research/research.ts'
import { writeResearch } from '../src/store/findings.ts'
import { leadsDatabase, writeDirectory } from './working.ts'

const ROWS = 8_000
let database: TestDatabase
let folder: string

beforeAll(async () => {
  database = await leadsDatabase()
  folder = await mkdtemp(join(tmpdir(), 'leasehold-takeover-'))
})
afterAll(async () => {
  await database.drop()
  await rm(folder, { recursive: true })
})

function startDiscovery() {
  return spawnProcess({
    script: 'daemons/runner/src/main.ts',
    args: ['--stage', 'company_discovery', '--slot', 'discovery-1'],
    env: {
      DATABASE_URL: database.url,
      // The successor takes over by the slot; nobody is to die of a busy machine.
      LEASEHOLD_LEASE_TTL_MS: '60000',
      LEASEHOLD_BEAT_INTERVAL_MS: '500',
      LEASEHOLD_POLL_MS: '50',
    },
  })
}

test('a worker killed in the middle of a directory costs one slice, and nothing is inserted or counted twice', async () => {
  const source = await writeDirectory(folder, 'big.csv', ROWS)
  const { runId } = await startRun(database.pool, { target: ROWS, source })
  const scanned = async () => (await runStatus(database.pool, runId)).scanned
  const first = startDiscovery()
  await expect.poll(scanned, { interval: 5 }).toBeGreaterThan(0)
  first.kill('SIGKILL')
  await first.exit
  const seen = await scanned()
  const second = startDiscovery()
  await expect
    .poll(async () => (await runStatus(database.pool, runId)).discoveredAt, { timeout: 60_000, interval: 20 })
    .not.toBeNull()
  const status = await runStatus(database.pool, runId)
  expect(status).toMatchObject({ scanned: ROWS, candidates: ROWS, duplicates: 0 })
  const stages = await runProgress(database.pool, runId)
  expect(stages.find((stage) => stage.stage === 'company_research')).toMatchObject({ submitted: ROWS })
  const { rows } = await database.pool.query(
    'select count(*)::int as companies, count(distinct source_line)::int as lines from leads.companies where run_id = $1',
    [runId],
  )
  expect(rows).toEqual([{ companies: ROWS, lines: ROWS }])
  expect(seen).toBeGreaterThan(0)
  second.kill('SIGTERM')
  await expect(second.exit).resolves.toMatchObject({ code: 0 })
})

function research(score: number): Research {
  return {
    score,
    signals: [],
    scoredBy: 'rules',
    pms: null,
    pmsStatus: 'unknown',
    site: null,
    qualified: true,
    verdict: 'made up \u0000 \ud800',
    notes: [],
  }
}

test('a worker whose lease is gone cannot overwrite what its successor found', async () => {
  await database.pool.query(
    `insert into leads.runs (id, criteria, target) values ('fenced', '{"target": 1}', 1)`,
  )
  const { rows } = await database.pool.query<{ id: string }>(
    `insert into leads.companies (run_id, identity, name) values ('fenced', 'name:acme|', 'Acme') returning id::text`,
  )
  const companyId = rows[0]?.id ?? ''
  const write = (fence: string, score: number) =>
    writeResearch(database.pool, [{ companyId, runId: 'fenced', fence, research: research(score) }])
  await write('20', 70)
  await write('10', 1)
  const stored = () =>
    database.pool.query('select score from leads.research where company_id = $1', [companyId])
  expect((await stored()).rows).toEqual([{ score: 70 }])
  await write('30', 80)
  expect((await stored()).rows).toEqual([{ score: 80 }])
})

async function may(role: string, what: string): Promise<boolean> {
  const client = await database.client()
  await client.query('begin')
  await client.query(`set local role ${role}`)
  const allowed = await client.query(what).then(
    () => true,
    (error: { code?: string }) => {
      expect(error.code).toBe('42501')
      return false
    },
  )
  await client.query('rollback')
  return allowed
}

test('the queue’s roles can do their part in the pipeline’s tables, and no more', async () => {
  expect(await may('leasehold_observer', 'select * from leads.run_status')).toBe(true)
  expect(await may('leasehold_observer', 'select * from leads.run_leads')).toBe(true)
  expect(await may('leasehold_observer', 'select * from leads.blocked_domains')).toBe(true)
  expect(
    await may('leasehold_observer', `insert into leads.suppressions (domain) values ('x.example')`),
  ).toBe(false)
  expect(
    await may('leasehold_operator', `insert into leads.suppressions (domain) values ('x.example')`),
  ).toBe(true)
  expect(await may('leasehold_worker', `delete from leads.runs`)).toBe(false)
  expect(await may('leasehold_worker', `update leads.companies set name = ''`)).toBe(false)
})
