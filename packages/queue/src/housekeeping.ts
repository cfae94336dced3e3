/**
 * The quiet duties of the database: which there are, how often they are due, and taking a turn of one on record.
 *
 * Invariant: a turn leaves its trace in leasehold.housekeeping, however it ends, and two processes do not take the same
 * one at once. Each duty may fail or be missed: the next turn does it. Who takes turns when is the monitor's business.
 */
import { describeError } from './clean.ts'
import type { Db } from './db.ts'
import { applyRetention } from './retention.ts'

/** What a turn did: numbers by name, and a word where a number does not say it. */
export type Deeds = Readonly<Record<string, number | string | null>>

/** A duty that is repeated. */
export interface Duty {
  readonly name: DutyName
  /** Divides an hour, so that it is due at the same minutes of each. */
  readonly everyMinutes: 1 | 5 | 60
  readonly what: string
}

export type DutyName =
  'partitions' | 'depths' | 'run_ledger' | 'tidy' | 'retention' | 'vacuum' | 'runs' | 'leases'

const enoughMerged = 1_000
const maxRounds = 50
const runBatch = 1_000
const tidyBatch = 10_000
/** Less than the five minutes after which a turn is taken for dead. */
const tidyMs = 200_000

const turns: Readonly<Record<DutyName, (db: Db) => Promise<Deeds>>> = {
  partitions: keepRangesAhead,
  depths: sampleDepths,
  run_ledger: mergeLedger,
  tidy: tidyRows,
  retention: async (db) => ({ ...(await applyRetention(db)) }),
  vacuum: vacuumTables,
  runs: forgetRuns,
  leases: endForgottenLeases,
}

/** All of them. */
export const duties: readonly Duty[] = [
  {
    name: 'partitions',
    everyMinutes: 1,
    what: 'makes ranges of ids ahead, begins a new one when it is time',
  },
  { name: 'depths', everyMinutes: 1, what: 'counts what lies in each stage' },
  { name: 'run_ledger', everyMinutes: 1, what: 'merges counts of runs' },
  { name: 'retention', everyMinutes: 5, what: 'drops ranges whose tasks ended long enough ago' },
  { name: 'tidy', everyMinutes: 5, what: 'removes workers, incidents, alerts and firings long gone' },
  { name: 'leases', everyMinutes: 5, what: 'ends overdue leases that their workers have forgotten' },
  { name: 'vacuum', everyMinutes: 1, what: 'vacuums tables that autovacuum does not keep up with' },
  { name: 'runs', everyMinutes: 60, what: 'forgets runs none of whose tasks is left' },
]

/** When a duty is due, as crontabs say it (UTC). */
export function crontabOf({ everyMinutes }: Duty): string {
  return everyMinutes === 60 ? '0 * * * *' : everyMinutes === 1 ? '* * * * *' : `*/${everyMinutes} * * * *`
}

/** Tells the database which duties there are, so that one that never runs is missed. */
export async function registerDuties(db: Db): Promise<void> {
  const facts = duties.map((duty) => ({
    duty: duty.name,
    schedule: crontabOf(duty),
    period_ms: duty.everyMinutes * 60_000,
  }))
  await db.query('select leasehold.register_duties($1)', [JSON.stringify(facts)])
}

/**
 * Takes a turn of a duty and records it; answers what it did, null when another process is at it.
 *
 * Takes a pool: a turn consists of several transactions. `by` names the process. Throws what the turn threw, after it
 * was recorded.
 */
export async function takeTurn(db: Db, duty: Duty, by: string): Promise<Deeds | null> {
  const { rows } = await db.query<{ began: boolean }>(
    `select leasehold.begin_duty($1, $2, $3::integer * interval '1 minute', $4) as began`,
    [duty.name, crontabOf(duty), duty.everyMinutes, by],
  )
  if (!rows[0]!.began) return null
  const end = (did: Deeds | null, error: string | null): Promise<unknown> =>
    db.query('select leasehold.end_duty($1, $2, $3, $4)', [
      duty.name,
      by,
      did === null ? null : JSON.stringify(did),
      error,
    ])
  let did: Deeds
  try {
    did = await turns[duty.name](db)
  } catch (error) {
    // Where even this cannot be recorded, the turn counts as one that never ended.
    await end(null, describeError(error).message).catch(() => {})
    throw error
  }
  await end(did, null)
  return did
}

/** How a duty has been going. Moments are null before its first turn. */
export interface DutyRecord {
  readonly duty: string
  readonly schedule: string
  readonly periodMs: number
  readonly startedAt: Date | null
  readonly startedBy: string | null
  readonly endedAt: Date | null
  readonly succeededAt: Date | null
  readonly nextAt: Date | null
  readonly outcome: 'running' | 'done' | 'failed' | null
  readonly did: Deeds | null
  readonly error: string | null
  readonly turns: number
  readonly failuresInARow: number
  readonly overdue: boolean
}

/** All duties that a monitor, or somebody by hand, has told of, by name. */
export async function listHousekeeping(db: Db): Promise<DutyRecord[]> {
  const { rows } = await db.query<DutyRecord & { duty: string }>(
    `select h.duty, h.schedule, extract(epoch from h.period)::float8 * 1000 as "periodMs", h.started_at as "startedAt",
       h.started_by as "startedBy", h.ended_at as "endedAt", h.succeeded_at as "succeededAt", h.next_at as "nextAt",
       h.outcome, h.did, h.error, h.turns::float8 as turns, h.failures_in_a_row as "failuresInARow",
       exists (select from leasehold.overdue_housekeeping() o where o.subject = h.duty) as overdue
     from leasehold.housekeeping h order by h.duty`,
  )
  return rows
}

async function keepRangesAhead(db: Db): Promise<Deeds> {
  let made = await ensurePartitions(db)
  const { rows } = await db.query<{ due: boolean }>('select leasehold.rotation_is_due() as due')
  if (rows[0]?.due !== true) return { made, rotated: 0 }
  try {
    const rotated = await db.query<{ first: string | null }>('select leasehold.rotate_partitions() as first')
    if (rotated.rows[0]?.first == null) return { made, rotated: 0 }
  } catch (error) {
    // A submitter keeps its transaction open: ranges lie ahead all the same, and there is time to begin the next one.
    if (!isLockTimeout(error)) throw error
    return { made, rotated: 0, postponed: 'a submitter keeps its transaction open' }
  }
  made += await ensurePartitions(db)
  return { made, rotated: 1 }
}

function isLockTimeout(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === '55P03'
}

async function ensurePartitions(db: Db): Promise<number> {
  const { rows } = await db.query<{ made: number }>('select leasehold.ensure_partitions() as made')
  return rows[0]?.made ?? 0
}

/** The function decides whether it is too early. */
async function sampleDepths(db: Db): Promise<Deeds> {
  const { rows } = await db.query<{ sampled: number }>(
    'select (leasehold.sample_depths() is not null)::integer as sampled',
  )
  return { sampled: rows[0]?.sampled ?? 0 }
}

/** In short transactions, until what is left is not worth one. */
async function mergeLedger(db: Db): Promise<Deeds> {
  let merged = 0
  for (let round = 0; round < maxRounds; round++) {
    const { rows } = await db.query<{ n: number }>('select leasehold.compact_run_ledger() as n')
    merged += rows[0]?.n ?? 0
    if ((rows[0]?.n ?? 0) < enoughMerged) break
  }
  return { merged }
}

/** In short transactions until a round leaves nothing behind, or until the time of a turn is up: the next one goes on. */
async function tidyRows(db: Db): Promise<Deeds> {
  const sum: Record<string, number> = {}
  const until = performance.now() + tidyMs
  for (let full = true; full && performance.now() < until;) {
    const { rows } = await db.query<{ gone: Readonly<Record<string, number>> }>(
      'select leasehold.tidy_rows($1) as gone',
      [tidyBatch],
    )
    const gone = Object.entries(rows[0]?.gone ?? {})
    for (const [table, n] of gone) sum[table] = (sum[table] ?? 0) + n
    full = gone.some(([, n]) => n >= tidyBatch)
  }
  return sum
}

async function endForgottenLeases(db: Db): Promise<Deeds> {
  const { rows } = await db.query<{ ended: number }>(
    'select cardinality(leasehold.end_forgotten_leases()) as ended',
  )
  return { ended: rows[0]?.ended ?? 0 }
}

async function forgetRuns(db: Db): Promise<Deeds> {
  let forgotten = 0
  for (let after: string | null = ''; after !== null;) {
    const { rows }: { rows: { forgotten: number; looked_to: string | null }[] } = await db.query(
      'select forgotten, looked_to from leasehold.forget_runs($1, $2)',
      [after, runBatch],
    )
    forgotten += rows[0]?.forgotten ?? 0
    after = rows[0]?.looked_to ?? null
  }
  return { forgotten }
}

/** Each outside of a transaction; one that somebody else works on is passed over. */
async function vacuumTables(db: Db): Promise<Deeds> {
  const { rows } = await db.query<{ name: string; dead: string }>(
    'select name, dead from leasehold.tables_to_vacuum()',
  )
  for (const { name } of rows) await db.query(`vacuum (skip_locked) leasehold.${name}`)
  return {
    vacuumed: rows.length,
    ...(rows.length > 0 && { tables: rows.map((row) => `${row.name}: ${row.dead} dead`).join(', ') }),
  }
}
