/**
 * Runs the whole pipeline on a real database with a real runner: from criteria and a directory to leads.
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pauseStage, resumeStage, runProgress } from '@leasehold/queue'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import type { TestDatabase } from '../../../test/harness/database.ts'
import {
  CriteriaInvalidError,
  DirectoryInvalidError,
  recordContacted,
  RunExistsError,
  RunNotFoundError,
  runNotes,
  runStatus,
  sampleDirectory,
  startRun,
  suppressDomains,
  type LeadToolOptions,
} from '../src/index.ts'
import { endOf, leadsDatabase, leadsOf, startWorker, writeDirectory, type Worker } from './working.ts'

let database: TestDatabase
let folder: string
let worker: Worker | null = null

beforeAll(async () => {
  database = await leadsDatabase()
  folder = await mkdtemp(join(tmpdir(), 'leasehold-pipeline-'))
})
afterEach(async () => {
  await worker?.stop()
  worker = null
})
afterAll(async () => {
  await database.drop()
  await rm(folder, { recursive: true })
})

const austin = { city: 'Austin', state: 'TX', kind: 'property management' }

async function work(options: LeadToolOptions = {}): Promise<void> {
  worker = await startWorker(database, options)
}

describe('a run on the sample directory', () => {
  test('ends when its target is met, with the best leads, and says what was missing', async () => {
    const { runId } = await startRun(database.pool, {
      ...austin,
      target: 25,
      source: sampleDirectory.companies,
    })
    await work()
    const status = await endOf(database, runId)
    expect(status).toMatchObject({ state: 'target met', candidates: 50, target: 25 })
    const leads = await leadsOf(database, runId)
    expect(leads.map((lead) => lead.rank)).toEqual(Array.from({ length: 25 }, (_, i) => i + 1))
    expect(leads.map((lead) => lead.score)).toEqual(leads.map((lead) => lead.score).toSorted((a, b) => b - a))
    expect(leads.every((lead) => lead.emailStatus === 'unknown' && lead.signals.length > 3)).toBe(true)
    expect(leads.some((lead) => lead.pms === 'AppFolio' && lead.pmsEvidence === 'description')).toBe(true)
    const notes = await runNotes(database.pool, runId)
    expect(notes.map(({ note }) => note)).toContain('not verified: reserved names are never looked up')
  })

  test('ends when its candidates are used up, leaving out blocked domains, duplicates and malformed lines', async () => {
    const suppressed = (await readFile(sampleDirectory.suppressedDomains, 'utf8')).trim().split('\n')
    await suppressDomains(database.pool, suppressed, 'a made-up example')
    const { runId } = await startRun(database.pool, {
      ...austin,
      target: 1_000,
      source: sampleDirectory.companies,
    })
    await work()
    const status = await endOf(database, runId)
    expect(status).toMatchObject({ state: 'candidates used up', blocked: suppressed.length })
    expect(status.rejected).toBeGreaterThanOrEqual(4)
    expect(status.duplicates).toBeGreaterThanOrEqual(3)
    expect(status.rejectedRows).toHaveLength(status.rejected)
    expect(status.researched).toBe(status.candidates)
    expect(status.searched).toBe(status.qualified)
    const leads = await leadsOf(database, runId)
    expect(leads).toHaveLength(status.leads)
    expect(leads.filter((lead) => lead.domain !== null && suppressed.includes(lead.domain))).toEqual([])
  })

  test('a wanted system is only ever delivered when it was detected', async () => {
    const { runId } = await startRun(database.pool, {
      ...austin,
      pms: 'Buildium',
      target: 500,
      source: sampleDirectory.companies,
    })
    await work()
    const status = await endOf(database, runId)
    expect(status.leads).toBeGreaterThan(3)
    expect(status.leads).toBeLessThan(status.researched)
    expect((await leadsOf(database, runId)).every((lead) => lead.pms === 'Buildium')).toBe(true)
  })
})

describe('a run', () => {
  test('can be started by SQL alone, and a worker that starts later finds it', async () => {
    const source = await writeDirectory(folder, 'sql.csv', 8)
    const payload = JSON.stringify({ criteria: { target: 4, source } })
    await database.pool.query(
      `insert into leasehold.tasks (stage, payload, run_id) values ('company_discovery', $1, 'by-sql')`,
      [payload],
    )
    await work()
    await expect(endOf(database, 'by-sql')).resolves.toMatchObject({ state: 'target met', candidates: 8 })
  })

  test('by SQL without a run id gets one from its task', async () => {
    const source = await writeDirectory(folder, 'nameless.csv', 1)
    const { rows } = await database.pool.query<{ id: string }>(
      `insert into leasehold.tasks (stage, payload) values ('company_discovery', $1) returning id`,
      [JSON.stringify({ criteria: { target: 1, source } })],
    )
    await work()
    await expect(endOf(database, `run-${rows[0]?.id}`)).resolves.toMatchObject({ leads: 1 })
  })

  test('lets the rest go once its target is met', async () => {
    const source = await writeDirectory(folder, 'rest.csv', 400)
    // The target is lowered while the run waits, so that all but one of its 400 companies are not needed.
    const { runId } = await startRun(database.pool, { target: 200, source })
    await database.pool.query(`update leads.runs set target = 1, candidates = 0 where id = $1`, [runId])
    await database.pool.query(
      `alter table leads.runs drop constraint candidates_are_at_most_twice_the_target`,
    )
    // Research waits until all companies are there and one of them is a lead: from then on nobody needs the others.
    await pauseStage(database.pool, 'company_research')
    await work()
    await expect
      .poll(async () =>
        (await runProgress(database.pool, runId)).find((one) => one.stage === 'company_research'),
      )
      .toMatchObject({ submitted: 400 })
    await database.pool.query(
      `with first as (select min(id) as id from leads.companies where run_id = $1),
       researched as (
         insert into leads.research (company_id, run_id, score, signals, scored_by, pms_status, qualified, verdict, fence)
         select id, $1, 90, '[]', 'rules', 'none seen', true, 'made up', 0 from first),
       searched as (insert into leads.contact_searches (company_id, run_id, found, fence) select id, $1, true, 0 from first)
       insert into leads.contacts (company_id, email, position, decision_rank, source, basis, email_status, email_reason)
       select id, 'office@first.example', 1, 1, 'made up', 'role', 'unknown', 'made up' from first`,
      [runId],
    )
    await resumeStage(database.pool, 'company_research')
    const status = await endOf(database, runId)
    expect(status).toMatchObject({ state: 'target met', researched: 1 })
    const stages = await runProgress(database.pool, runId)
    expect(stages.find((stage) => stage.stage === 'company_research')).toMatchObject({ done: 400, open: 0 })
    expect(await leadsOf(database, runId)).toHaveLength(1)
  })

  test('whose directory cannot be read ends and says so', async () => {
    await database.pool.query(
      `insert into leasehold.tasks (stage, payload, run_id) values ('company_discovery', $1, 'no-file')`,
      [JSON.stringify({ criteria: { target: 5, source: join(folder, 'missing.csv') } })],
    )
    await work()
    const status = await endOf(database, 'no-file')
    expect(status).toMatchObject({ state: 'candidates used up', leads: 0 })
    expect(status.notes).toEqual([expect.stringMatching(/missing\.csv.*no such file/)])
  })

  test('without a source and without a model ends and says what to do', async () => {
    const { runId } = await startRun(database.pool, { target: 5 })
    await work()
    const status = await endOf(database, runId)
    expect(status.notes).toEqual([expect.stringMatching(/ANTHROPIC_API_KEY/)])
  })

  test('says which criteria its directory could not answer', async () => {
    const path = join(folder, 'cityless.csv')
    await writeFile(path, 'company,website\nAcme,acme.example\n')
    const { runId } = await startRun(database.pool, { city: 'Austin', target: 1, source: path })
    await work()
    const status = await endOf(database, runId)
    expect(status).toMatchObject({ leads: 1, notes: [expect.stringMatching(/no city column/)] })
  })

  test('of several slices counts every row once', async () => {
    const source = await writeDirectory(folder, 'slices.csv', 2_001)
    const { runId } = await startRun(database.pool, { target: 2_001, source })
    await work({ fetchPages: false })
    await expect(endOf(database, runId)).resolves.toMatchObject({
      state: 'target met',
      scanned: 2_001,
      candidates: 2_001,
      duplicates: 0,
    })
    const stages = await runProgress(database.pool, runId)
    expect(stages.find((stage) => stage.stage === 'company_discovery')?.done).toBe(2)
  })

  test('survives hostile rows: the bad are reported, the strange are stored, nothing is stuck', async () => {
    const rows = [
      ['company', 'web\u0000site', '__proto__', 'description'],
      ['Lone \ud800 surrogate', 'x', 'y', 'z'],
      [`${'x'.repeat(299)}😀 cut`, '', '', ''],
      ['ﷺ'.repeat(300), '', '', ''],
      [`'; drop table leads.companies; --`, '', '', '\u0007bell \\u0000'],
      ['1\u0000', '', '', ''],
      ['Long', '', 'p'.repeat(100_000), 'd'.repeat(300_000)],
      ['=cmd|calc', '', '', ''],
    ]
    const path = join(folder, 'hostile.csv')
    await writeFile(
      path,
      Buffer.from(`\ufeff${rows.map((row) => row.join(',')).join('\r\n')}\r\n`, 'utf16le'),
    )
    const { runId } = await startRun(database.pool, { target: 100, source: path, minScore: 0 })
    await work()
    const status = await endOf(database, runId)
    expect(status).toMatchObject({ state: 'candidates used up', scanned: 7, candidates: 5, researched: 5 })
    expect(status.rejectedRows.map(({ line }) => line)).toEqual([3, 6])
    const stages = await runProgress(database.pool, runId)
    expect(stages.every((stage) => stage.dead === 0)).toBe(true)
  })

  test('is refused with wrong criteria or a wrong directory, and leaves nothing behind', async () => {
    const before = await database.pool.query('select count(*) from leads.runs')
    await expect(startRun(database.pool, { target: 0 })).rejects.toBeInstanceOf(CriteriaInvalidError)
    await expect(
      startRun(database.pool, { target: 1, source: join(folder, 'none.csv') }),
    ).rejects.toBeInstanceOf(DirectoryInvalidError)
    await expect(startRun(database.pool, { target: 1 }, { runId: 'by-sql' })).rejects.toBeInstanceOf(
      RunExistsError,
    )
    await expect(startRun(database.pool, { target: 1 }, { runId: 'line\nbreak' })).rejects.toThrow(/runId/)
    expect((await database.pool.query('select count(*) from leads.runs')).rows).toEqual(before.rows)
    await expect(runStatus(database.pool, 'nobody')).rejects.toBeInstanceOf(RunNotFoundError)
    await expect(leadsOf(database, 'nobody')).rejects.toBeInstanceOf(RunNotFoundError)
  })

  test('that was deleted cancels its tasks', async () => {
    const source = await writeDirectory(folder, 'deleted.csv', 3)
    const { runId, taskId } = await startRun(database.pool, { target: 3, source })
    await database.pool.query(
      `insert into leasehold.tasks (stage, payload, run_id) values ('company_research', $1, $2)`,
      [JSON.stringify({ runId: 'gone', companyId: '1' }), runId],
    )
    await work()
    await endOf(database, runId)
    const stages = await runProgress(database.pool, runId)
    expect(stages.find((stage) => stage.stage === 'company_research')).toMatchObject({
      cancelled: 1,
      dead: 0,
    })
    expect(taskId).toMatch(/^\d+$/)
  })
})

describe('blocked domains', () => {
  test('written to recently are left out of new runs, for 90 days', async () => {
    const source = await writeDirectory(folder, 'recent.csv', 6)
    const first = await startRun(database.pool, { target: 2, source })
    await work()
    await endOf(database, first.runId)
    expect(await recordContacted(database.pool, first.runId)).toBe(2)
    await worker?.stop()
    await work()
    const second = await startRun(database.pool, { target: 10, source })
    await expect(endOf(database, second.runId)).resolves.toMatchObject({ blocked: 2, candidates: 4 })
    const blocked = await database.pool.query(
      `select reason from leads.blocked_domains where domain like 'made-up-%'`,
    )
    expect(blocked.rows).toEqual([{ reason: 'contacted recently' }, { reason: 'contacted recently' }])
  })

  test('suppressed later vanish from results of earlier runs', async () => {
    const source = await writeDirectory(folder, 'later.csv', 3)
    await database.pool.query('delete from leads.recent_contacts')
    const { runId } = await startRun(database.pool, { target: 3, source })
    await work()
    await endOf(database, runId)
    expect(await leadsOf(database, runId)).toHaveLength(3)
    await expect(
      suppressDomains(database.pool, ['https://www.made-up-1.example/x', 'nonsense'], 'asked'),
    ).resolves.toEqual({
      added: 1,
      refused: ['nonsense'],
    })
    expect((await leadsOf(database, runId)).map((lead) => lead.domain)).not.toContain('made-up-1.example')
    await database.pool.query(`delete from leads.suppressions where domain = 'made-up-1.example'`)
  })
})

test('no run left a task in two places or none', async () => {
  const { rows } = await database.pool.query('select * from leasehold.invariant_violations')
  expect(rows).toEqual([])
})
