/**
 * Runs in the database: their beginning, what discovery adds to them, where they stand.
 *
 * A run's status is never stored: it is computed from what its stages wrote (view leads.run_status). Submitting the first task is
 * start.ts; the candidates themselves are candidates.ts.
 */
import { LeaseholdError, type Db, type Tx } from '@leasehold/queue'
import { criteriaSchema, type Criteria } from '../criteria.ts'
import type { RowCounts } from '../discovery/select.ts'

/** There is no such run, or it was deleted. */
export class RunNotFoundError extends LeaseholdError {
  readonly runId: string

  constructor(runId: string) {
    super(
      'RUN_NOT_FOUND',
      `There is no lead run "${runId}". See which there are: select * from leads.run_status`,
    )
    this.runId = runId
  }
}

/** A run of this name was started before; a name is used once. */
export class RunExistsError extends LeaseholdError {
  readonly runId: string

  constructor(runId: string) {
    super(
      'RUN_EXISTS',
      `There is a lead run "${runId}" already. Leave the name out to get a new one, or choose another.`,
    )
    this.runId = runId
  }
}

/** Creates the run unless it is there already (then false); a run's criteria never change afterwards. */
export async function ensureRun(db: Db, runId: string, criteria: Criteria): Promise<boolean> {
  const { rowCount } = await db.query({
    name: 'leads_ensure_run',
    text: 'insert into leads.runs (id, criteria, target) values ($1, $2, $3) on conflict (id) do nothing',
    values: [runId, JSON.stringify(criteria), criteria.target],
  })
  return rowCount === 1
}

/** What a stage must know of its run. `met`: the target has been reached, remaining work is not needed. */
export type RunFacts = {
  readonly criteria: Criteria
  readonly candidates: number
  readonly discovered: boolean
  readonly met: boolean
}

/** Reads a run; null when there is none. */
export async function readRun(db: Db, runId: string): Promise<RunFacts | null> {
  const { rows } = await db.query<{
    criteria: unknown
    candidates: number
    discovered: boolean
    met: boolean
  }>({
    name: 'leads_read_run',
    text: `select r.criteria, r.candidates, r.discovered_at is not null as discovered,
        (select count(*) from leads.contact_searches s where s.run_id = r.id and s.found) >= r.target as met
      from leads.runs r where r.id = $1`,
    values: [runId],
  })
  const [row] = rows
  if (row === undefined) return null
  return { ...row, criteria: criteriaSchema.parse(row.criteria) }
}

/** How long what was read of a run may be used. Stages look at it for every company; the answer changes once in a run's life. */
const FRESH_MS = 250

/** Reads runs at most every quarter of a second, however many handlers ask at once. `now` is a monotonic clock in ms. */
export function createRunWatch(
  now: () => number = () => performance.now(),
): (db: Db, runId: string) => Promise<RunFacts | null> {
  const looks = new Map<string, { at: number; facts: Promise<RunFacts | null> }>()
  return (db, runId) => {
    const look = looks.get(runId)
    if (look !== undefined && now() - look.at < FRESH_MS) return look.facts
    const facts = readRun(db, runId)
    looks.set(runId, { at: now(), facts })
    // A failed look is not an answer for those who come after it.
    facts.catch(() => looks.delete(runId))
    if (looks.size > 1_000) looks.delete(looks.keys().next().value ?? '')
    return facts
  }
}

/** Adds a slice's counts and notes; `ended` closes discovery. Part of the slice's transaction. */
export async function addDiscovery(
  tx: Tx,
  runId: string,
  counts: RowCounts,
  notes: readonly string[],
  ended: boolean,
): Promise<void> {
  await tx.query(
    `update leads.runs set scanned = scanned + $2, rejected = rejected + $3, unmatched = unmatched + $4,
       blocked = blocked + $5, duplicates = duplicates + $6, candidates = candidates + $7,
       discovered_at = case when $8 then coalesce(discovered_at, clock_timestamp()) else discovered_at end,
       notes = notes || (select coalesce(array_agg(n), '{}') from unnest($9::text[]) n where n <> all (notes))
     where id = $1`,
    [
      runId,
      counts.scanned,
      counts.rejected,
      counts.unmatched,
      counts.blocked,
      counts.duplicates,
      counts.candidates,
      ended,
      notes,
    ],
  )
}

/** A row of leads.run_status. */
export type RunStatus = {
  readonly runId: string
  readonly state: 'discovering' | 'working' | 'target met' | 'candidates used up'
  readonly createdAt: Date
  readonly target: number
  readonly leads: number
  readonly candidates: number
  readonly researched: number
  readonly qualified: number
  readonly searched: number
  readonly scanned: number
  readonly rejected: number
  readonly unmatched: number
  readonly blocked: number
  readonly duplicates: number
  readonly discoveredAt: Date | null
  readonly notes: readonly string[]
  /** The first rejected lines of the directory, at most 20. */
  readonly rejectedRows: readonly { readonly line: number; readonly problem: string }[]
}

/** Where a run stands. Throws {@link RunNotFoundError}. */
export async function runStatus(db: Db, runId: string): Promise<RunStatus> {
  const { rows } = await db.query<RunStatus>(
    `select run_id as "runId", state, created_at as "createdAt", target, leads::int, candidates, researched::int, qualified::int,
       searched::int, scanned::float8, rejected::float8, unmatched::float8, blocked::float8, duplicates::float8,
       discovered_at as "discoveredAt", notes,
       coalesce((select json_agg(json_build_object('line', f.line, 'problem', f.problem) order by f.line)
         from (select line, problem from leads.rejected_rows x where x.run_id = s.run_id order by line limit 20) f), '[]') as "rejectedRows"
     from leads.run_status s where run_id = $1`,
    [runId],
  )
  const [row] = rows
  if (row === undefined) throw new RunNotFoundError(runId)
  return row
}

/** What the result of a run should say beside its rows: how often each note about a company occurs, most frequent first. */
export async function runNotes(db: Db, runId: string): Promise<{ note: string; companies: number }[]> {
  const { rows } = await db.query<{ note: string; companies: number }>(
    `select note, count(*)::int as companies
     from (
       select unnest(notes) as note from leads.research where run_id = $1
       union all
       select unnest(notes) from leads.contact_searches where run_id = $1
     ) n
     group by note order by count(*) desc, note limit 20`,
    [runId],
  )
  return rows
}
