/**
 * The lead pipeline on a made-up directory, all stages, without a network: every name is a reserved one.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { createStages, leadsMigrations, runStatus, startRun } from '@leasehold/pipeline-leads'
import { migrate, openPool } from '@leasehold/postgres'
import { runProgress } from '@leasehold/queue'
import { startRunner } from '@leasehold/runner'
import { bySize, numberOf, type Workload } from '../workload.ts'

const log = {
  debug() {},
  info() {},
  warn() {},
  error(facts: object, message: string) {
    process.stderr.write(`${message} ${JSON.stringify(facts)}\n`)
  },
}

/** A CSV of so many companies; returns its path. */
function directory(folder: string, count: number): string {
  const lines = [
    'company,website,city,state,country,industry,description,employees,contact name,contact title',
  ]
  for (let n = 0; n < count; n++) {
    lines.push(
      `Company ${n} Property Management,https://company-${n}.example/,Austin,TX,US,Residential property management,` +
        `"Full-service management of ${n % 900} apartments. Owners log in to AppFolio.",${20 + (n % 80)},Quinn Mockford,Owner`,
    )
  }
  const file = join(folder, 'companies.csv')
  writeFileSync(file, lines.join('\n'))
  return file
}

export const workload: Workload = {
  id: 'L',
  name: 'leads',
  about: 'the lead pipeline, all stages, without a network',
  shown: [
    { figure: 'seconds', unit: 's', better: 'less' },
    { figure: 'companiesResearched', unit: 'companies researched', better: 'more' },
    { figure: 'leads', unit: 'leads', better: 'more' },
  ],
  plan({ size, contenders }) {
    const companies = bySize(size, 200, 30_000, 30_000)
    return [
      {
        title: `lead pipeline, ${companies.toLocaleString('en')} companies`,
        repeats: 1,
        cells: contenders
          .filter(({ kind }) => kind === 'own')
          .map((contender) => ({ contender, parameters: { companies } })),
      },
    ].filter(({ cells }) => cells.length > 0)
  },
  async measure({ url }, parameters) {
    await migrate(url, { set: leadsMigrations })
    const folder = mkdtempSync(join(tmpdir(), 'leasehold-bench-leads-'))
    const target = numberOf(parameters, 'companies')
    const source = directory(folder, target)
    const pool = openPool({ connectionString: url, applicationName: 'bench leads', max: 10 })
    const stages = createStages({ model: { apiKey: null, baseUrl: null, name: null } })
    const runner = await startRunner({ connectionString: url, stages, slot: 'leads@1', log })
    const began = performance.now()
    const { runId } = await startRun(pool, { target, source })
    const open = async () => (await runProgress(pool, runId)).reduce((sum, stage) => sum + stage.open, 0)
    while ((await open()) > 0) await sleep(100)
    const seconds = (performance.now() - began) / 1000
    const status = await runStatus(pool, runId)
    await runner.drain()
    await pool.end()
    rmSync(folder, { recursive: true, force: true })
    return { figures: { seconds, companiesResearched: status.researched, leads: status.leads } }
  },
}
