/**
 * How many of what: for whoever asks often and wants numbers, not lists (metrics).
 *
 * One statement over the small views, so that it costs the same whatever is waiting. Depths of stages are stages.ts.
 */
import type { Db } from '../db.ts'

/** Numbers by status (incidents: by kind). What there is none of is not in the map. */
export interface StatusCounts {
  readonly workers: ReadonlyMap<string, number>
  readonly schedulers: ReadonlyMap<string, number>
  readonly schedules: ReadonlyMap<string, number>
  /** Open ones. */
  readonly incidents: ReadonlyMap<string, number>
}

/** Counts what the views show now. */
export async function countByStatus(db: Db): Promise<StatusCounts> {
  const { rows } = await db.query<{ what: keyof StatusCounts; value: string; n: number }>(
    `select 'workers' as what, w.status as value, count(*)::float8 as n from leasehold.worker_health w group by w.status
     union all
     select 'schedulers', c.status, count(*)::float8 from leasehold.scheduler_health c group by c.status
     union all
     select 'schedules', s.status, count(*)::float8 from leasehold.schedule_health s group by s.status
     union all
     select 'incidents', i.kind, count(*)::float8 from leasehold.open_incidents i group by i.kind`,
  )
  const of = (what: keyof StatusCounts): ReadonlyMap<string, number> =>
    new Map(rows.filter((row) => row.what === what).map(({ value, n }) => [value, n]))
  return {
    workers: of('workers'),
    schedulers: of('schedulers'),
    schedules: of('schedules'),
    incidents: of('incidents'),
  }
}
