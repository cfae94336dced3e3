/**
 * What the command line knows of the lead pipeline, which ships with Leasehold: its stages and its tables.
 *
 * Other pipelines are named by `--module`; they bring their own tables.
 */
import { type MigrateResult, leaseholdMigrations, migrate } from '@leasehold/postgres'

/** In the order in which a run passes them. */
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
  const results: SetResult[] = []
  for (const set of [leaseholdMigrations]) {
    results.push({ set: set.name, ...(await migrate(url, { set })) })
  }
  return results
}
