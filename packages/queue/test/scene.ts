/**
 * What the tests of this package share: stages and workers to act with, one-line verbs over the SQL contract, and the
 * questions asked after every act: is anything wrong, and what has changed?
 *
 * Invariant: everything is asked of the database; nothing here remembers what ought to be true. Databases come from
 * test/harness. The verbs speak SQL on purpose: what a worker in any language may call is what is tested.
 */
import type { Db } from '@leasehold/queue'
import type { Client } from 'pg'

/** A claimed task, as leasehold.claim returns it. */
export interface Lease {
  readonly taskId: string
  readonly fence: string
  readonly attempt: number
  readonly payload: unknown
  readonly extra: Record<string, unknown> | null
}

/** Settings of leasehold.register_stage, by their SQL names without `p_`. */
export type StageSettings = Partial<
  Record<
    | 'priority'
    | 'max_attempts'
    | 'timeout'
    | 'backoff_min'
    | 'backoff_max'
    | 'max_crashes'
    | 'key_limit'
    | 'expected_workers'
    | 'rate_tasks'
    | 'rate_per'
    | 'rate_burst',
    string | number
  >
>

let count = 0

/** A stage with a name of its own, known to the database. */
export async function addStage(db: Db, settings: StageSettings = {}): Promise<string> {
  const name = `stage_${++count}`
  const named = Object.keys(settings).map((setting, i) => `p_${setting} => $${i + 2}`)
  await db.query(`select leasehold.register_stage(${['$1', ...named].join(', ')})`, [
    name,
    ...Object.values(settings),
  ])
  return name
}

/** A live worker for these stages; its id. The slot is its own unless one is named. */
export async function addWorker(
  db: Db,
  stages: string[],
  options: { slot?: string; ttl?: string; concurrency?: number } = {},
): Promise<string> {
  const { slot = `slot-${++count}`, ttl = '30 seconds', concurrency = 10 } = options
  const { rows } = await db.query<{ id: string }>(
    `select worker_id as id from leasehold.register_worker($1, $2, $3::interval, $3::interval / 3, 'host.test', 1, 'test', $4)`,
    [slot, stages, ttl, concurrency],
  )
  return rows[0]!.id
}

/** Columns of leasehold.tasks beside the stage. */
export type TaskColumns = Record<string, unknown>

/** Submits by a plain INSERT, as any program would; the new id. */
export async function insertTask(db: Db, stage: string, columns: TaskColumns = {}): Promise<string> {
  const names = Object.keys(columns)
  const { rows } = await db.query<{ id: string }>(
    `insert into leasehold.tasks (${['stage', ...names].join(', ')})
     values (${['$1', ...names.map((_, i) => `$${i + 2}`)].join(', ')}) returning id`,
    [stage, ...Object.values(columns)],
  )
  return rows[0]!.id
}

/** Submits n plain tasks in one statement; their ids in order. */
export async function insertTasks(db: Db, stage: string, n: number): Promise<string[]> {
  const { rows } = await db.query<{ id: string }>(
    'insert into leasehold.tasks (stage) select $1 from generate_series(1, $2::integer) returning id',
    [stage, n],
  )
  return rows.map((row) => row.id)
}

/** Claims up to `n` tasks of a stage. */
export async function claim(db: Db, worker: string, stage: string, n = 1): Promise<Lease[]> {
  const { rows } = await db.query<Lease & { taskId: string }>(
    'select task_id as "taskId", fence, attempt, payload, extra from leasehold.claim($1, $2, $3)',
    [worker, stage, n],
  )
  return rows
}

/** Claims one task and insists on getting it. */
export async function claimOne(db: Db, worker: string, stage: string): Promise<Lease> {
  const [lease] = await claim(db, worker, stage)
  if (lease === undefined) throw new Error(`nothing to claim in ${stage}`)
  return lease
}

/** How a lease is to end; the named arguments of leasehold.settle. */
export type Ending = 'done' | 'fail' | 'release' | 'snooze' | 'cancel'

function json(value: unknown): string | null {
  return value === undefined ? null : JSON.stringify(value)
}

/** Settles one lease; false when it was refused. */
export async function settle(
  db: Db,
  worker: string,
  lease: { taskId: string; fence: string },
  outcome: Ending,
  more: {
    result?: unknown
    error?: unknown
    retry_after?: string
    retryable?: boolean
    children?: unknown
  } = {},
): Promise<boolean> {
  const { rows } = await db.query<{ accepted: boolean }>(
    `select leasehold.settle($1, $2, $3, $4, result => $5, error => $6, retry_after => $7, retryable => $8,
       children => $9) as accepted`,
    [
      worker,
      lease.taskId,
      lease.fence,
      outcome,
      json(more.result),
      json(more.error),
      more.retry_after ?? null,
      more.retryable ?? true,
      json(more.children),
    ],
  )
  return rows[0]!.accepted
}

/** Settles leases as done on the hot path, the arrays of leasehold.exchange; the ids that were refused. */
export async function settleDone(
  db: Db,
  worker: string,
  leases: { taskId: string; fence: string }[],
): Promise<string[]> {
  const { rows } = await db.query<{ receipt: { worker: string; refused?: string[] } }>(
    `select extra::jsonb as receipt
     from leasehold.exchange($1, $2, $3, null, null, null, null, null, null, false, null) where task_id is null`,
    [worker, leases.map((lease) => lease.taskId), leases.map((lease) => lease.fence)],
  )
  return rows[0]!.receipt.refused ?? []
}

/** One beat; the state it is answered with. */
export async function beat(db: Db, worker: string): Promise<string> {
  const { rows } = await db.query<{ state: string }>('select state from leasehold.heartbeat($1)', [worker])
  return rows[0]!.state
}

/** Releases dead workers; the ids of those it found. */
export async function releaseDead(db: Db): Promise<string[]> {
  const { rows } = await db.query<{ id: string }>(
    'select worker_id as id from leasehold.release_dead_workers()',
  )
  return rows.map((row) => row.id)
}

/** The state of a task, or 'unknown' when there is no such task. */
export async function stateOf(db: Db, taskId: string): Promise<string> {
  const { rows } = await db.query<{ state: string }>(
    'select state from leasehold.task_status where task_id = $1',
    [taskId],
  )
  return rows[0]?.state ?? 'unknown'
}

/** How the attempts of a task ended, the oldest first. */
export async function outcomesOf(db: Db, taskId: string): Promise<string[]> {
  const { rows } = await db.query<{ outcome: string }>(
    'select outcome from leasehold.attempts where task_id = $1 order by fence',
    [taskId],
  )
  return rows.map((row) => row.outcome)
}

/** Broken invariants, by the full audit, of which the view invariant_violations is a part. Must be empty after everything. */
export async function problems(db: Db): Promise<object[]> {
  const { rows } = await db.query<object & { violation: string }>('select * from leasehold.audit()')
  return rows
}

const stateTables = [
  'ready',
  'scheduled',
  'waiting',
  'leases',
  'attempts',
  'task_keys',
  'dependencies',
  'nudges',
  'concurrency_keys',
  'revocations',
  'run_ledger',
  'task_progress',
  'task_checkpoints',
  'task_logs',
]

/** All rows of all state tables: what a refused verb must leave as it was. */
export async function snapshot(db: Db): Promise<Record<string, unknown>> {
  const selects = stateTables.map(
    (table) =>
      `(select coalesce(jsonb_agg(to_jsonb(x) order by to_jsonb(x)), '[]') from leasehold.${table} x) as ${table}`,
  )
  // Tasks never change, and may be large.
  selects.push(`(select jsonb_agg(md5(x::text) order by x.id) from leasehold.tasks x) as tasks`)
  const { rows } = await db.query<Record<string, unknown>>(`select ${selects.join(', ')}`)
  return rows[0]!
}

/** Resolves when the session's query is under way: true when it waits for another session, false when it has ended. */
export async function waits(watcher: Db, session: Client, query: Promise<unknown>): Promise<boolean> {
  const state = { over: false }
  const end = (): void => {
    state.over = true
  }
  query.then(end, end)
  const pid = (session as unknown as { processID: number }).processID
  while (!state.over) {
    const { rows } = await watcher.query<{ blocked: boolean }>(
      'select cardinality(pg_blocking_pids($1)) > 0 as blocked',
      [pid],
    )
    if (rows[0]!.blocked) return true
  }
  return false
}

/** Resolves when the session waits for another one. Fails when its query ends without ever having waited. */
export async function untilBlocked(watcher: Db, session: Client, query: Promise<unknown>): Promise<void> {
  if (!(await waits(watcher, session, query))) throw new Error('the query ended without waiting for anybody')
}

/** Numbers that repeat with their seed. LEASEHOLD_TEST_SEED repeats a run; the seed is printed. */
export interface Random {
  readonly seed: number
  /** A whole number from 0 to below `n`. */
  below(n: number): number
  chance(probability: number): boolean
  pick<T>(items: readonly T[]): T
}

/** Makes a source of random numbers and prints its seed. */
export function seeded(what: string): Random {
  const seed = Number(process.env['LEASEHOLD_TEST_SEED'] ?? Date.now() % 1_000_000_007)
  console.log(`${what}: LEASEHOLD_TEST_SEED=${seed}`)
  let state = seed
  // mulberry32
  const next = (): number => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
  const below = (n: number): number => Math.floor(next() * n)
  return { seed, below, chance: (p) => next() < p, pick: (items) => items[below(items.length)]! }
}
