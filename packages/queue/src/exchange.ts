/**
 * The exchange: one statement and one commit that settles what a worker has ended, stores its notes and children, and
 * claims what it has room for; and the parts of it that a handler writes in a transaction of its own.
 *
 * Which task is claimed, whether a write is accepted, what a failure leads to, leasehold.exchange decides. Here its answer
 * is taken apart: many tasks come in one row (migration 0027).
 */
import type { Db } from './db.ts'
import { parseExact } from './exact-json.ts'

/** An end that is more than "done without a result". Fields as leasehold.settle_endings takes them. */
export interface Ending {
  task_id: string
  fence: string
  outcome: 'done' | 'fail' | 'release' | 'snooze' | 'cancel'
  result?: unknown
  error?: unknown
  after_ms?: number
  retryable?: boolean
}

/** A log line, progress or checkpoint, as leasehold.write_notes takes it. */
export type Note =
  | {
      task_id: string
      fence: string
      kind: 'log'
      level: string
      message: string
      fields?: unknown
      at_ms_ago: number
    }
  | { task_id: string; fence: string; kind: 'progress'; fraction: number | null; message: string | null }
  | { task_id: string; fence: string; kind: 'checkpoint'; name: string; value: unknown }

/** What a worker brings to an exchange, and what it wants from it. JSON texts are made by the caller (cleanJson). */
export interface ExchangeRequest {
  workerId: string
  /** Leases that were done without a result, as parallel arrays. */
  doneIds: string[]
  doneFences: string[]
  /** JSON arrays of {@link Ending}, children (see settlementChildren) and {@link Note}; null for none. */
  endings: string | null
  children: string | null
  notes: string | null
  /** How many tasks to claim of each stage; null claims nothing and leaves sleep alone. */
  stages: string[] | null
  limits: number[] | null
  runId: string | null
  /** Look for tasks whose time has come. */
  promote: boolean
  /** Ask to be notified of submissions for this long; 0: stop; null: as it was. */
  wakeMs: number | null
}

/** A lease taken away from a live worker. */
export interface Revocation {
  task_id: string
  fence: string
  reason: string
}

/** The answer about the worker itself. */
export interface Receipt {
  worker: 'live' | 'expired' | 'ended' | 'unknown'
  reason?: string | null
  refused?: string[]
  revoked?: Revocation[]
  due_in_ms?: number
  /** Stages whose ready tasks wait for the rate limit; nobody is woken for them. */
  held?: string[]
  drain?: boolean
  /** Ids of tasks of several priorities, as they are to start. */
  order?: string[]
}

/** A claimed task. */
export interface ClaimedTask {
  readonly taskId: string
  readonly fence: string
  readonly stage: string
  readonly attempt: number
  /** As its submitter wrote it, parsed by {@link parseExact}. */
  readonly payload: unknown
  /** What it has beside its payload; null for nothing. */
  readonly extra: TaskExtra | null
}

/** What a task may have beside its payload, and how often a worker ended with it. */
export interface TaskExtra {
  readonly run_id?: string
  readonly key?: string
  readonly title?: string
  readonly meta?: unknown
  readonly priority?: number
  readonly concurrency_key?: string
  readonly max_attempts?: number
  readonly timeout_ms?: number
  readonly crashes?: number
}

/** An answer to an exchange. */
export interface ExchangeAnswer {
  readonly receipt: Receipt
  /** Stage by stage, in the order of the request; of each the older ones first. */
  readonly claimed: ClaimedTask[]
  /** How long the tasks were, in characters of JSON. */
  readonly characters: number
}

/** A row of leasehold.exchange: one task, many (without an id, see migration 0027), or the receipt (without a stage). */
type AnswerRow = [
  taskId: string | null,
  fence: string,
  stage: string | null,
  attempt: number,
  payload: string,
  extra: string | null,
]

const exchangeText =
  'select * from leasehold.exchange($1, $2::bigint[], $3::bigint[], $4::jsonb, $5::jsonb, $6::jsonb, $7, $8, $9, $10, $11, $12)'

/** Settles, notes, submits children and claims in one statement and one commit. */
export async function exchange(db: Db, request: ExchangeRequest): Promise<ExchangeAnswer> {
  const r = request
  const result = await db.query({
    name: 'leasehold_exchange',
    text: exchangeText,
    rowMode: 'array',
    values: [
      r.workerId,
      r.doneIds.length === 0 ? null : `{${r.doneIds.join(',')}}`,
      r.doneIds.length === 0 ? null : `{${r.doneFences.join(',')}}`,
      r.endings,
      r.children,
      r.notes,
      r.stages,
      r.limits,
      r.runId,
      r.promote,
      r.wakeMs,
      true,
    ],
  })
  const rows = result.rows as unknown as AnswerRow[]
  // The receipt is the last row: the claim streams before it.
  const receipt = JSON.parse(rows.pop()![5]!) as Receipt
  const claimed: ClaimedTask[] = []
  let characters = 0
  for (const row of rows) {
    characters += row[4].length + (row[5]?.length ?? 0)
    unpack(row, claimed)
  }
  return { receipt, claimed: inOrder(claimed, receipt.order), characters }
}

function unpack([taskId, fence, stage, attempt, payload, extra]: AnswerRow, into: ClaimedTask[]): void {
  if (taskId !== null) {
    into.push({
      taskId,
      fence,
      stage: stage!,
      attempt,
      payload: parseExact(payload),
      extra: extra === null ? null : (parseExact(extra) as TaskExtra),
    })
    return
  }
  const payloads = parseExact(payload) as unknown[]
  const { task_ids, extras } = membersOf(extra!)
  for (let i = 0; i < payloads.length; i++) {
    into.push({
      taskId: task_ids[i]!,
      fence,
      stage: stage!,
      attempt,
      payload: payloads[i],
      extra: extras === undefined ? null : extras[i]!,
    })
  }
}

function membersOf(extra: string): { task_ids: string[]; extras?: (TaskExtra | null)[] } {
  // JSON.parse makes short texts unique, which costs more than all else here; so what is nothing but ids is cut.
  if (/^\{"task_ids":\["[\d",]+"\]\}$/.test(extra)) return { task_ids: extra.slice(14, -3).split('","') }
  return parseExact(extra) as { task_ids: string[]; extras?: (TaskExtra | null)[] } // meta has integers of any length
}

/**
 * Tasks come stage by stage; within a stage as they lie on disk, nearly, not always, as they were submitted, and long ones
 * at the end. They are to start as they were picked: where there were several priorities, `picked` says how; where there
 * was one, the older ones first.
 */
function inOrder(tasks: ClaimedTask[], picked: readonly string[] = []): ClaimedTask[] {
  const rank = new Map(picked.map((taskId, nr) => [taskId, nr]))
  const before = (a: ClaimedTask, b: ClaimedTask): boolean => {
    // A suspect is picked alone, before the others.
    const [first, second] = [rank.get(a.taskId) ?? -1, rank.get(b.taskId) ?? -1]
    return first === second ? isOlder(a, b) : first < second
  }
  const misplaced = tasks.some(
    (task, i) => i > 0 && task.stage === tasks[i - 1]!.stage && before(task, tasks[i - 1]!),
  )
  if (!misplaced) return tasks
  const stages = new Map([...new Set(tasks.map((task) => task.stage))].map((stage, nr) => [stage, nr]))
  return tasks.sort((a, b) => stages.get(a.stage)! - stages.get(b.stage)! || (before(a, b) ? -1 : 1))
}

function isOlder({ taskId: a }: ClaimedTask, { taskId: b }: ClaimedTask): boolean {
  return a.length === b.length ? a < b : a.length < b.length
}

/**
 * What is written under a lease locks its worker until the transaction ends. A process or a host that vanishes before its
 * commit, and with it a connection that nobody closes, would keep a dead worker from being released for as long as TCP
 * believes in it: hours. So the server ends what is left open for a minute, unless it was told another time.
 */
const endWhenLeftOpen = `case pg_catalog.current_setting('idle_in_transaction_session_timeout')
  when '0' then pg_catalog.set_config('idle_in_transaction_session_timeout', '60s', true) end`

/** One task's settlement inside the caller's own transaction. False: the lease is gone, roll back. */
export async function settle(
  tx: Db,
  workerId: string,
  ending: string,
  children: string | null,
): Promise<boolean> {
  const { rows } = await tx.query({
    name: 'leasehold_settle_tx',
    text: exchangeText.replace('*', `*, ${endWhenLeftOpen}`),
    rowMode: 'array',
    // promote null: revocations of other leases stay for the loop, which reads its own receipts only.
    values: [workerId, null, null, ending, children, null, null, null, null, null, null, false],
  })
  const receipt = JSON.parse((rows as unknown as string[][])[0]![5]!) as Receipt
  return receipt.worker === 'live' && receipt.refused === undefined
}

/** Notes written right away, for a checkpoint. False: the lease is gone. `notes` is a JSON array of {@link Note}. */
export async function writeNotes(db: Db, workerId: string, notes: string): Promise<boolean> {
  const { rows } = await db.query<{ written: number }>(
    `select leasehold.write_notes($1, $2::jsonb) as written, ${endWhenLeftOpen}`,
    [workerId, notes],
  )
  return rows[0]!.written > 0
}
