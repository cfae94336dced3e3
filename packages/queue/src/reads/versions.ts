/**
 * Which programs work here: live workers by version, and whether they know the schema they work on.
 *
 * A difference is what a deploy looks like while it goes on, and what a forgotten host looks like afterwards; it is told,
 * never refused. What is refused is decided when a worker registers (migrations/0015_deploys.sql).
 */
import type { Db } from '../db.ts'
import type { HealthCheck } from './health.ts'
import { builder, rowsOf } from './query.ts'

/** Live workers that run the same program. Null: they did not say. */
export interface WorkerVersion {
  readonly version: string | null
  /** The newest migration which the program knows. */
  readonly schema: string | null
  readonly workers: number
  readonly slots: readonly string[]
  readonly olderThanSchema: boolean
}

/** The versions at work, the most frequent first. */
export async function listWorkerVersions(db: Db): Promise<WorkerVersion[]> {
  const { from } = await builder()
  const query = from
    .selectFrom('worker_versions as v')
    .select(['v.version', 'v.schema', 'v.workers', 'v.slots', 'v.older_than_schema as olderThanSchema'])
    .orderBy('v.workers', 'desc')
    .orderBy('v.version')
    .orderBy('v.schema')
    .$castTo<WorkerVersion>()
  return rowsOf(db, query)
}

/** The same as a check: a warning when programs differ or are older than the schema. */
export async function checkWorkerVersions(db: Db): Promise<HealthCheck> {
  const versions = await listWorkerVersions(db)
  const skewed = versions.length > 1 || versions.some((one) => one.olderThanSchema)
  const shown = versions.map(
    ({ version, schema, workers, olderThanSchema }) =>
      `${workers} × ${version ?? 'unknown'} (${schema ?? 'schema not told'}${olderThanSchema ? ', older than the database' : ''})`,
  )
  const old = versions.filter((one) => one.olderThanSchema || one !== versions[0])
  const slots = old.flatMap((one) => one.slots).slice(0, 5)
  return {
    name: 'worker versions',
    status: skewed ? 'warn' : 'ok',
    value: shown.join(', ') || 'no worker lives',
    advice: `Live workers run different programs, or older ones than the schema; look at ${slots.join(', ')}. Deploy, then npx leasehold drain --all --rolling.`,
  }
}
