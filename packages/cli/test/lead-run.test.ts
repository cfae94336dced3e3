/**
 * Runs of the lead pipeline as the command line shows them: their own counts, and leads instead of tasks.
 */
import { migrate } from '@leasehold/postgres'
import {
  CONTACT_STAGE,
  DISCOVERY_STAGE,
  RESEARCH_STAGE,
  leadsMigrations,
  startRun,
} from '@leasehold/pipeline-leads'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { leadStageNames } from '../src/pipeline.ts'
import { leasehold, leaseholdJson } from './leasehold.ts'

let db: TestDatabase
let env: { DATABASE_URL: string }

beforeAll(async () => {
  db = await createTestDatabase()
  env = { DATABASE_URL: db.url }
  await migrate(db.pool, { set: leadsMigrations })
  await startRun(db.pool, { target: 2, city: 'Austin', state: 'TX', source: sample }, { runId: 'leads-1' })
  await db.pool.query(`
    with company as (
      insert into leads.companies (run_id, identity, name, domain, source_line)
      values ('leads-1', 'domain:one.example', '=One', 'one.example', 2), ('leads-1', 'domain:two.example', 'Two', 'two.example', 3)
      returning id, run_id, name
    ), researched as (
      insert into leads.research (company_id, run_id, score, signals, scored_by, pms_status, qualified, verdict, fence)
      select id, run_id, case name when 'Two' then 90 else 70 end, '[]', 'rules', 'unknown', true, 'qualified', 1 from company
    ), searched as (
      insert into leads.contact_searches (company_id, run_id, found, fence) select id, run_id, true, 1 from company
      returning company_id
    )
    select from searched`)
  await db.pool.query(`
    insert into leads.contacts (company_id, email, position, name, decision_rank, source, basis, email_status, email_reason)
    select id, 'info@' || domain, 1, 'Ann Example', 1, 'directory', 'directory', 'unknown', 'made up' from leads.companies`)
})
afterAll(() => db.drop())

const sample = new URL('../../../pipelines/leads/sample/companies.csv', import.meta.url).pathname

test('the stages known here are those of the pipeline', () => {
  expect(leadStageNames).toEqual([DISCOVERY_STAGE, RESEARCH_STAGE, CONTACT_STAGE])
})

test('a lead run in detail shows what the pipeline counted, and why it does not move', async () => {
  const detail = await leaseholdJson<{
    leads: { leads: number; target: number }
    holdups: { reasonCode: string }[]
  }>(['runs', 'leads-1'], env)
  expect(detail.leads).toMatchObject({ leads: 2, target: 2, state: 'target met' })
  expect(detail.holdups.map((one) => one.reasonCode)).toEqual(['no_live_worker'])
  const { stdout } = await leasehold(['runs', 'leads-1'], env)
  expect(stdout).toMatch(/^leads +2 of 2$/m)
  expect(stdout).toContain('npx leasehold runner --stage company_discovery')
})

test('export writes the leads, the best first and harmless, or the tasks when asked for them', async () => {
  const { stdout } = await leasehold(['export', 'leads-1'], env)
  const [header, first, second] = stdout.split('\r\n')
  expect(header).toMatch(/^rank,company,/)
  expect(first).toMatch(/^1,Two,/)
  expect(second).toMatch(/^2,'=One,/)
  const leads = await leaseholdJson<{ company: string; email: string }[]>(['export', 'leads-1'], env)
  expect(leads.map(({ company, email }) => [company, email])).toEqual([
    ['Two', 'info@two.example'],
    ['=One', 'info@one.example'],
  ])
  const tasks = await leaseholdJson<{ stage: string }[]>(['export', 'leads-1', '--tasks'], env)
  expect(tasks.map((task) => task.stage)).toEqual(['company_discovery'])
})

test('a login that may not read the pipeline’s tables sees its runs as tasks', async () => {
  const name = `cli_plain_${process.pid}`
  await db.pool.query(`create role ${name} login password 'plain'; grant leasehold_observer to ${name};
    revoke usage on schema leads from leasehold_observer`)
  try {
    const url = Object.assign(new URL(db.url), { username: name, password: 'plain' }).href
    const detail = await leaseholdJson<{ leads: unknown; open: number }>(['runs', 'leads-1'], {
      DATABASE_URL: url,
    })
    expect([detail.leads, detail.open]).toEqual([null, 1])
  } finally {
    await db.pool.query(`drop owned by ${name}; drop role ${name}`)
  }
})
