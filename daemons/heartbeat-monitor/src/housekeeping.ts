/**
 * The quiet duties as jobs of graphile-worker: made by its crontab, once for all monitors that run side by side.
 *
 * What the duties are and do is @leasehold/queue; each turn is on record in leasehold.housekeeping. A turn may fail or be
 * missed: the next one does it. Intervals are whole minutes because crontabs have no smaller ones.
 */
import { type Db, type Deeds, crontabOf, duties, takeTurn } from '@leasehold/queue'
import { hostname } from 'node:os'
import type { Log } from './log.ts'

/** A job that the crontab repeats. */
export interface DutyJob {
  /** In a schema that other programs may use as well. */
  readonly name: string
  readonly crontab: string
  readonly run: (db: Db, log: Log) => Promise<void>
}

/** All of them. */
export const dutyJobs: readonly DutyJob[] = duties.map((duty) => ({
  name: `leasehold_${duty.name}`,
  crontab: crontabOf(duty),
  async run(db, log) {
    const did = await takeTurn(db, duty, `${hostname()} pid ${process.pid}`)
    // What changes the schema, or what somebody may look for later; the others would say something every minute.
    if (did !== null && isNews(did)) {
      log.info({ event: 'housekeeping.done', duty: duty.name, ...did }, 'housekeeping done')
    }
  },
}))

const news = ['made', 'rotated', 'rangesDropped', 'tablesDropped', 'logsEmptied', 'straysDeleted', 'vacuumed']

function isNews(did: Deeds): boolean {
  return news.some((name) => typeof did[name] === 'number' && did[name] > 0)
}
