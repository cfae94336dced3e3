/**
 * How long history is kept: the settings, what retention would do, and doing it.
 *
 * Invariant: every step is a transaction of its own that gives way to others within a fraction of a second; what could
 * not be done now is told with its reason and done by a later turn. Why a range may go is decided in
 * migrations/0014_housekeeping.sql. When turns are taken is housekeeping.ts.
 */
import type { Db } from './db.ts'
import { translating } from './translate.ts'

/** What is kept how long, in milliseconds; null: for ever, for the logs: as long as their tasks. */
export interface Retention {
  readonly keepTasksMs: number | null
  readonly keepLogsMs: number | null
  /** A range takes new tasks for so long; null: a sixth of keepTasksMs. */
  readonly rotateEveryMs: number | null
  /** Ids of a range; null: by the rate of submission. */
  readonly rangeIds: number | null
  readonly keepWorkersMs: number
  readonly keepIncidentsMs: number
  readonly keepMonitorsMs: number
  readonly keepFiringsMs: number
}

const columns = {
  keepTasksMs: 'keep_tasks',
  keepLogsMs: 'keep_logs',
  rotateEveryMs: 'rotate_every',
  rangeIds: 'range_ids',
  keepWorkersMs: 'keep_workers',
  keepIncidentsMs: 'keep_incidents',
  keepMonitorsMs: 'keep_monitors',
  keepFiringsMs: 'keep_firings',
} as const

const settingsOf = (row: string): string =>
  `select ${Object.entries(columns)
    .map(([name, column]) =>
      column === 'range_ids'
        ? `(r).${column}::float8 as "${name}"`
        : `extract(epoch from (r).${column})::float8 * 1000 as "${name}"`,
    )
    .join(', ')} from (select ${row} as r) x`

/** The settings as they are. */
export async function readRetention(db: Db): Promise<Retention> {
  const { rows } = await db.query<Retention & { keepTasksMs: number | null }>(
    settingsOf('(select s from leasehold.retention s)'),
  )
  return rows[0]!
}

/**
 * Changes the settings that are named; the others stay. Answers the settings as they are now. Takes effect at the next
 * turn of the duty `retention`. Throws ValueRefusedError when one is out of bounds; nothing is changed then.
 */
export function setRetention(db: Db, changes: Partial<Retention>): Promise<Retention> {
  return translating(async () => {
    const named = Object.entries(changes).map(([name, value]) => {
      const column = columns[name as keyof Retention]
      return [column, value === null || column === 'range_ids' ? value : interval(value)]
    })
    const { rows } = await db.query<Retention & { keepTasksMs: number | null }>(
      settingsOf('leasehold.set_retention($1)'),
      [JSON.stringify(Object.fromEntries(named))],
    )
    return rows[0]!
  })
}

/** In days where they are whole, so that the table reads well. */
function interval(ms: number): string {
  return ms % 86_400_000 === 0 ? `${ms / 86_400_000} days` : `${ms} milliseconds`
}

/** A range of ids and what retention does about it. */
export interface PlannedRange {
  /** The first id of it, and the first one behind it. */
  readonly firstId: string
  readonly endId: string
  readonly openedAt: Date | null
  readonly closedAt: Date | null
  /** The planner's figure; 0 when nobody has counted yet. */
  readonly tasks: number
  /** On disk, with everything that belongs to its tasks. */
  readonly bytes: number
  readonly action: 'drop' | 'drop logs' | 'dropping' | 'keep'
  /** Why it is kept; null when it is not. */
  readonly reason: string | null
  /** When it may go at the earliest, as far as is known. */
  readonly dueAt: Date | null
}

/** What a turn of retention would do now, the oldest range first. Changes nothing. */
export async function retentionPlan(db: Db): Promise<PlannedRange[]> {
  const { rows } = await db.query<PlannedRange & { firstId: string }>(
    `select first_id as "firstId", end_id as "endId", opened_at as "openedAt", closed_at as "closedAt",
       tasks::float8 as tasks, bytes::float8 as bytes, action, reason, due_at as "dueAt"
     from leasehold.retention_plan()`,
  )
  return rows
}

/** What a turn did, in numbers; `stays` is why the oldest range that is old enough could not go. */
export interface RetentionTurn {
  readonly rangesDropped: number
  readonly tablesDropped: number
  readonly logsEmptied: number
  readonly straysDeleted: number
  readonly rangesStay: number
  readonly stays: string | null
}

/**
 * One turn: drops what may go. Takes a pool, because each step commits by itself; what an earlier turn left half done
 * is finished first. Ranges that stay are looked at again by the next turn.
 */
export async function applyRetention(db: Db): Promise<RetentionTurn> {
  let tablesDropped = await dropLeftovers(db)
  let rangesDropped = 0
  const reasons: string[] = []
  const ranges = await dueRanges(db)
  for (const { firstId, keepMs } of ranges.filter((range) => range.what === 'tasks')) {
    const reason = await stepOn(db, 'drop_range', firstId, keepMs)
    if (reason !== null) {
      reasons.push(`ids from ${firstId}: ${reason}`)
      continue
    }
    rangesDropped += 1
    tablesDropped += 1 + (await dropLeftovers(db))
  }
  let logsEmptied = 0
  for (const { firstId, keepMs } of ranges.filter((range) => range.what === 'logs')) {
    if ((await stepOn(db, 'drop_range_logs', firstId, keepMs)) === null) logsEmptied += 1
  }
  const straysDeleted = await deleteStrays(db)
  return {
    rangesDropped,
    tablesDropped,
    logsEmptied,
    straysDeleted,
    rangesStay: reasons.length,
    stays: reasons[0] ?? null,
  }
}

interface DueRange {
  readonly what: 'tasks' | 'logs'
  readonly firstId: string
  readonly keepMs: number
}

/** Ranges that were closed long enough ago, the oldest first; whether they may go is asked one by one. */
async function dueRanges(db: Db): Promise<DueRange[]> {
  const { rows } = await db.query<DueRange & { firstId: string }>(
    `select case when p.closed_at < leasehold.clock() - r.keep_tasks then 'tasks' else 'logs' end as what,
       p.first_id as "firstId",
       extract(epoch from case when p.closed_at < leasehold.clock() - r.keep_tasks then r.keep_tasks else r.keep_logs end)::float8
         * 1000 as "keepMs"
     from leasehold.partitions p cross join leasehold.retention r
     where p.retired_at is null and (p.closed_at < leasehold.clock() - r.keep_tasks
       or (p.closed_at < leasehold.clock() - r.keep_logs and p.logs_gone_at is null))
     order by p.first_id`,
  )
  return rows
}

async function stepOn(
  db: Db,
  step: 'drop_range' | 'drop_range_logs',
  firstId: string,
  keepMs: number,
): Promise<string | null> {
  const { rows } = await db.query<{ reason: string | null }>(
    `select leasehold.${step}($1, leasehold.clock() - $2::float8 * interval '1 millisecond') as reason`,
    [firstId, keepMs],
  )
  return rows[0]!.reason
}

async function dropLeftovers(db: Db): Promise<number> {
  for (let dropped = 0; ; dropped++) {
    const { rows } = await db.query<{ name: string | null }>('select leasehold.drop_leftovers() as name')
    if (rows[0]!.name === null) return dropped
  }
}

const strayBatch = 1_000
const maxStrayBatches = 100

async function deleteStrays(db: Db): Promise<number> {
  let deleted = 0
  for (let batch = 0; batch < maxStrayBatches; batch++) {
    const { rows } = await db.query<{ n: number | null }>(
      `select leasehold.delete_strays(leasehold.clock() - r.keep_tasks, $1) as n
       from leasehold.retention r where r.keep_tasks is not null`,
      [strayBatch],
    )
    deleted += rows[0]?.n ?? 0
    if ((rows[0]?.n ?? 0) < strayBatch) break
  }
  return deleted
}
