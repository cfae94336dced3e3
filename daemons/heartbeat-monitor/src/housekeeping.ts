/**
 * The quiet duties: partitions ahead, depth samples, ledger entries merged, rows that nobody needs removed.
 *
 * Each is a job of graphile-worker, made by its crontab once for all monitors, and may fail or be missed: the next turn
 * does it. Intervals are whole minutes because crontabs have no smaller ones. Running them is side-jobs.ts.
 */
import type { Db } from '@leasehold/queue'
import { compactRunLedger, ensurePartitions, sampleDepths, tidy } from './verbs.ts'

/** A duty that the crontab repeats. */
export interface Duty {
  /** The job's name, in a schema that other programs may use as well. */
  readonly name: string
  readonly crontab: string
  readonly run: (db: Db) => Promise<void>
}

const enoughMerged = 1_000
const maxRounds = 50

/** All of them. Retention of tasks is a policy and not among them. */
export const duties: readonly Duty[] = [
  {
    name: 'leasehold_partitions',
    crontab: '* * * * *',
    run: async (db) => void (await ensurePartitions(db)),
  },
  { name: 'leasehold_depths', crontab: '* * * * *', run: sampleDepths },
  { name: 'leasehold_run_ledger', crontab: '* * * * *', run: mergeLedger },
  { name: 'leasehold_tidy', crontab: '*/5 * * * *', run: tidy },
]

/** In short transactions, until what is left is not worth one. */
async function mergeLedger(db: Db): Promise<void> {
  for (let round = 0; round < maxRounds; round++) {
    if ((await compactRunLedger(db)) < enoughMerged) return
  }
}
