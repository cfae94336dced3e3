/**
 * What the command line knows of the lead pipeline, which ships with Leasehold: its stages, its tables, its results.
 *
 * Loaded only when it is needed, because it brings a model's client and a web client along. Other pipelines are named by
 * `--module` and bring their own tables; their runs are known by their tasks.
 */
import { type MigrateResult, leaseholdMigrations, migrate } from '@leasehold/postgres'
import { type Db, LeaseholdError, mayRead } from '@leasehold/queue'
import type { Lead, RunStatus } from '@leasehold/pipeline-leads'

const load = (): Promise<typeof import('@leasehold/pipeline-leads')> => import('@leasehold/pipeline-leads')

/** The pipeline's stages in the order in which a run passes them. Their names never change. */
export const leadStageNames: readonly string[] = [
  'company_discovery',
  'company_research',
  'contact_discovery',
]

/** What was applied of one set of migrations. */
export interface SetResult extends MigrateResult {
  readonly set: string
}

/** Brings the queue's schema, then the pipeline's, to the versions of this program. */
export async function migrateAll(url: string): Promise<SetResult[]> {
  const { leadsMigrations } = await load()
  const results: SetResult[] = []
  for (const set of [leaseholdMigrations, leadsMigrations]) {
    results.push({ set: set.name, ...(await migrate(url, { set })) })
  }
  return results
}

/** Where a run stands by the pipeline's own count; null when it is no run of the pipeline. */
export async function readLeadRun(db: Db, runId: string): Promise<RunStatus | null> {
  // The pipeline's tables may be absent, or not for this login: then it is a run like any other.
  if (!(await mayRead(db, 'leads', 'run_status'))) return null
  const { runStatus } = await load()
  try {
    return await runStatus(db, runId)
  } catch (error) {
    if (error instanceof LeaseholdError && error.code === 'RUN_NOT_FOUND') return null
    throw error
  }
}

/** The leads of a run, the best first, and how they are written as CSV. */
export async function openLeads(
  db: Db,
  runId: string,
): Promise<{ rows: AsyncIterable<Lead>; toCsv: (rows: AsyncIterable<Lead>) => AsyncIterable<string> }> {
  const { exportLeads, leadsCsv } = await load()
  return { rows: exportLeads(db, runId), toCsv: leadsCsv }
}
