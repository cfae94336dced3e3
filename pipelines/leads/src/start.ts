/**
 * Starts a run: the run's row and its first task, in one transaction.
 *
 * Refuses criteria that cannot be used and a directory that cannot be read, before anything is written. The same run can be started by
 * SQL alone: insert a company_discovery task whose payload is {"criteria": {…}} and whose run_id is the run's name.
 */
import { randomBytes } from 'node:crypto'
import { inTransaction, submit, type Db } from '@leasehold/queue'
import { CriteriaInvalidError, parseCriteria, type Criteria } from './criteria.ts'
import { openDirectory } from './discovery/directory.ts'
import { DISCOVERY_STAGE } from './stages/names.ts'
import { ensureRun, RunExistsError } from './store/runs.ts'

/** A started run. */
export type StartedRun = { readonly runId: string; readonly taskId: string; readonly criteria: Criteria }

/**
 * Starts a run for `criteria` (see criteria.ts). Throws CriteriaInvalidError, DirectoryInvalidError and
 * RunExistsError; given a transaction's
 * client, the run begins when that transaction commits.
 */
export async function startRun(
  db: Db,
  criteria: Readonly<Record<string, unknown>>,
  options: { readonly runId?: string; readonly priority?: number } = {},
): Promise<StartedRun> {
  const checked = parseCriteria(criteria)
  if (checked.source !== undefined) await openDirectory(checked.source)
  const runId = options.runId ?? newRunId()
  if (!/^[^\p{Cc}\p{Cs}]{1,200}$/u.test(runId)) {
    throw new CriteriaInvalidError([{ path: 'runId', message: 'must be 1 to 200 printable characters' }])
  }
  const taskId = await inTransaction(db, async (tx) => {
    if (!(await ensureRun(tx, runId, checked))) throw new RunExistsError(runId)
    return submit(
      tx,
      DISCOVERY_STAGE,
      { criteria: checked },
      {
        runId,
        title: describe(checked),
        ...(options.priority === undefined ? {} : { priority: options.priority }),
      },
    )
  })
  return { runId, taskId, criteria: checked }
}

/** `leads-20260102-1a2b3c`: sorts by day, does not repeat. */
function newRunId(): string {
  return `leads-${new Date().toISOString().slice(0, 10).replaceAll('-', '')}-${randomBytes(3).toString('hex')}`
}

function describe({ target, kind, city, state, country }: Criteria): string {
  const place = [city, state, country].filter((part) => part !== undefined).join(', ')
  return `${target} leads: ${kind ?? 'any kind'}${place === '' ? '' : ` in ${place}`}`
    .slice(0, 200)
    .toWellFormed()
}
