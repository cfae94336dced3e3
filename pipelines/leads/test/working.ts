/**
 * A database with the lead pipeline's tables and runners that work its stages, for the tests of the whole.
 *
 * Nothing leaves the machine: reserved names are never looked up, and where names are looked up a test's own DNS is asked.
 */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { migrate } from '@leasehold/postgres'
import { runProgress } from '@leasehold/queue'
import { startRunner, type Runner } from '@leasehold/runner'
import { expect } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../../../test/harness/database.ts'
import {
  leadsMigrations,
  leadStages,
  openLeadTools,
  runStatus,
  type Lead,
  type LeadToolOptions,
  type RunStatus,
  exportLeads,
} from '../src/index.ts'

/** A database ready for runs. */
export async function leadsDatabase(): Promise<TestDatabase> {
  const database = await createTestDatabase()
  await migrate(database.url, { set: leadsMigrations })
  return database
}

const quiet = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined }

/** A runner of all three stages, with what it needs to be ended. */
export type Worker = { readonly runner: Runner; stop(): Promise<void> }

export async function startWorker(database: TestDatabase, options: LeadToolOptions = {}): Promise<Worker> {
  const tools = openLeadTools(options)
  const runner = await startRunner({
    connectionString: database.url,
    stages: leadStages(tools),
    slot: 'leads',
    log: quiet,
    // Longer than any test moves the clock: nobody is to die here.
    leaseTtlMs: 4 * 3_600_000,
    beatIntervalMs: 500,
    maxPollMs: 50,
  })
  return {
    runner,
    async stop() {
      await runner.stopNow()
      await tools.close()
    },
  }
}

/** Waits until a run has no open task, and gives its status. */
export async function endOf(database: TestDatabase, runId: string): Promise<RunStatus> {
  const open = async () => {
    const stages = await runProgress(database.pool, runId)
    return stages.length === 0 ? null : stages.reduce((sum, stage) => sum + stage.open, 0)
  }
  await expect.poll(open, { timeout: 100_000, interval: 20 }).toBe(0)
  return runStatus(database.pool, runId)
}

/** The leads of a run. */
export async function leadsOf(database: TestDatabase, runId: string): Promise<Lead[]> {
  const leads: Lead[] = []
  for await (const lead of exportLeads(database.pool, runId)) leads.push(lead)
  return leads
}

/** A directory of made-up companies at `.example` domains; returns its path. */
export async function writeDirectory(folder: string, name: string, rows: number): Promise<string> {
  const lines = ['company,website,city,state,industry,contact name,contact title']
  for (let i = 0; i < rows; i++) {
    lines.push(
      `Made Up ${i} LLC,https://www.made-up-${i}.example,Austin,TX,Property management,Jo Testerman,Owner`,
    )
  }
  const path = join(folder, name)
  await writeFile(path, `${lines.join('\n')}\n`)
  return path
}
