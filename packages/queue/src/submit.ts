/**
 * Submission from TypeScript: one task, or any number in bulk, inside the caller's transaction.
 *
 * Does what `insert into leasehold.tasks` does, with typed payloads and typed errors. Payloads travel as one JSON text
 * per chunk, so there is no parameter limit. Refuses a payload that does not fit its stage before anything is sent.
 */
import { type Db, inTransaction } from './db.ts'
import { type Duration, toMs } from './duration.ts'
import { parsePayload, type Stage } from './stage.ts'
import { translating } from './translate.ts'

/** Settings of one task; whatever is left out comes from its stage. */
export interface SubmitOptions {
  /** 0–9, higher first. */
  priority?: number
  /** Not before this moment. */
  runAt?: Date
  /** Unique per stage while the task is unfinished. 1–200 characters. */
  key?: string
  /** Groups the tasks of one pass of a pipeline. */
  runId?: string
  title?: string
  maxAttempts?: number
  timeout?: Duration
  /** Ids of tasks that must be done first; one that dies or is cancelled cancels this one. */
  dependsOn?: string[]
  /** At most the stage's `limits.perKey` tasks of one key run at once. */
  concurrencyKey?: string
  meta?: unknown
}

/** One task of a bulk submission. */
export interface SubmitItem<P> extends SubmitOptions {
  payload: P
}

/** The fields of leasehold.tasks, as JSON. */
export function taskFields(stage: Stage<never> | string, payload: unknown, options: SubmitOptions): Record<string, unknown> {
  const checked = typeof stage === 'string' ? payload : parsePayload(stage as Stage, payload)
  return {
    stage: typeof stage === 'string' ? stage : stage.name,
    payload: checked ?? {},
    priority: options.priority,
    run_at: options.runAt?.toISOString(),
    key: options.key,
    run_id: options.runId,
    title: options.title,
    max_attempts: options.maxAttempts,
    timeout_ms: options.timeout === undefined ? undefined : toMs(options.timeout),
    depends_on: options.dependsOn,
    concurrency_key: options.concurrencyKey,
    meta: options.meta,
  }
}

/**
 * Submits one task and returns its id.
 *
 * `onKeyConflict`: 'error' (default) throws {@link KeyConflictError}, 'keep' returns the id of the unfinished task that
 * holds the key, 'replace' cancels that task and submits this one. Given a transaction's client, the task exists when
 * that transaction commits. Throws PayloadInvalidError, UnknownStageError, DependencyError, ValueRefusedError.
 */
export async function submit<P>(
  db: Db,
  stage: Stage<P> | string,
  payload: P,
  options: SubmitOptions & { onKeyConflict?: 'error' | 'keep' | 'replace' } = {},
): Promise<string> {
  const f = taskFields(stage as Stage<never>, payload, options)
  const { rows } = await translating(() =>
    db.query<{ id: string }>({
      name: 'leasehold_submit',
      text: `select leasehold.submit(stage => $1, payload => $2::jsonb, priority => $3, run_at => $4, key => $5, run_id => $6,
        title => $7, max_attempts => $8, timeout => $9 * interval '1 millisecond', depends_on => $10::bigint[],
        concurrency_key => $11, meta => $12::jsonb, on_key_conflict => $13)::text as id`,
      values: [
        f.stage,
        JSON.stringify(f.payload),
        f.priority,
        f.run_at,
        f.key,
        f.run_id,
        f.title,
        f.max_attempts,
        f.timeout_ms,
        f.depends_on,
        f.concurrency_key,
        f.meta === undefined ? null : JSON.stringify(f.meta),
        options.onKeyConflict ?? 'error',
      ],
    }),
  )
  return rows[0]!.id
}

/** Rows per INSERT: beyond a few thousand nothing is gained, and one JSON text stays small. */
const chunkRows = 5000

/**
 * Submits any number of tasks of one stage; returns their ids in the order of `items`.
 *
 * All or none: given a pool, one transaction of its own; given a client, the caller's. 100,000 rows take a second or so.
 * A key conflict fails the whole submission with {@link KeyConflictError}. Errors as in {@link submit}.
 */
export async function submitMany<P>(db: Db, stage: Stage<P> | string, items: SubmitItem<P>[]): Promise<string[]> {
  const fields = items.map((item) => taskFields(stage as Stage<never>, item.payload, item))
  if (fields.length === 0) return []
  return translating(() =>
    inTransaction(db, async (tx) => {
      const ids: string[] = []
      for (let start = 0; start < fields.length; start += chunkRows) {
        const { rows } = await tx.query<{ id: string }>({
          name: 'leasehold_submit_many',
          text: `insert into leasehold.tasks (stage, payload, priority, run_at, key, run_id, title, max_attempts, timeout,
              depends_on, concurrency_key, meta)
            select stage, payload, priority, run_at, key, run_id, title, max_attempts, timeout_ms * interval '1 millisecond',
              depends_on, concurrency_key, meta
            from json_to_recordset($1::json) as x(stage text, payload jsonb, priority smallint, run_at timestamptz, key text,
              run_id text, title text, max_attempts smallint, timeout_ms bigint, depends_on bigint[], concurrency_key text,
              meta jsonb)
            returning id`,
          values: [JSON.stringify(fields.slice(start, start + chunkRows))],
        })
        for (const row of rows) ids.push(row.id)
      }
      return ids
    }),
  )
}
