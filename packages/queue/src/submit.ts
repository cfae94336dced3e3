/**
 * Submission from TypeScript: one task, or any number in bulk, inside the caller's transaction.
 *
 * Does what `insert into leasehold.tasks` does, with typed payloads and typed errors. Payloads travel as one JSON text
 * per chunk, so there is no parameter limit. Refuses a payload that does not fit its stage before anything is sent.
 */
import { type Db, inTransaction } from './db.ts'
import { type Duration, toMs } from './duration.ts'
import { ValueRefusedError } from './errors.ts'
import { writeExact } from './exact-json.ts'
import { assertReadable, parsePayload, type Stage } from './stage.ts'
import { checkId } from './task.ts'
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

/** Of one submission so many are read again as they will be at work: what a schema does is the same for all, mostly. */
const readAgain = 100

/**
 * The fields of leasehold.tasks, as JSON. Throws {@link ValueRefusedError} for what JSON or UTF-8 would silently turn
 * into something else; everything else is the database's to judge. `nr`: the place of the task in its submission.
 */
export function taskFields(
  stage: Stage<never> | string,
  payload: unknown,
  options: SubmitOptions,
  nr = 0,
): Record<string, unknown> {
  const checked = typeof stage === 'string' ? payload : parsePayload(stage as Stage, payload)
  if (typeof stage !== 'string' && nr < readAgain) assertReadable(stage as Stage, checked)
  return {
    stage: text('stage', typeof stage === 'string' ? stage : stage.name),
    payload: checked === undefined ? {} : checked,
    priority: whole('priority', options.priority),
    run_at: moment('runAt', options.runAt),
    key: text('key', options.key),
    run_id: text('runId', options.runId),
    title: text('title', options.title),
    max_attempts: whole('maxAttempts', options.maxAttempts),
    timeout_ms: options.timeout === undefined ? undefined : toMs(options.timeout),
    depends_on: options.dependsOn?.map(checkId),
    concurrency_key: text('concurrencyKey', options.concurrencyKey),
    meta: options.meta,
  }
}

function text(name: string, value: string | undefined): string | undefined {
  if (value === undefined || (typeof value === 'string' && value.isWellFormed())) return value
  throw new ValueRefusedError('22023', null, `${name} must be well-formed text`)
}

function whole(name: string, value: number | undefined): number | undefined {
  if (value === undefined || Number.isInteger(value)) return value
  throw new ValueRefusedError('22023', null, `${name} must be a whole number, not ${value}`)
}

function moment(name: string, value: Date | undefined): string | undefined {
  if (value === undefined) return undefined
  if (value instanceof Date && !Number.isNaN(value.getTime())) return value.toISOString()
  throw new ValueRefusedError('22007', null, `${name} must be a valid Date`)
}

/** JSON text of a payload or a whole task. Refused: cycles, functions, more levels than the stack holds. */
function json(what: string, value: unknown): string {
  try {
    const written = writeExact(value)
    if (written !== undefined) return written
  } catch (error) {
    const tooDeep = error instanceof RangeError
    const why = tooDeep ? 'it is nested too deeply or too large' : (error as Error).message.split('\n')[0]
    throw new ValueRefusedError(
      tooDeep ? '54001' : '22023',
      null,
      `${what} cannot be written as JSON: ${why}`,
      {
        cause: error,
      },
    )
  }
  throw new ValueRefusedError('22023', null, `${what} cannot be written as JSON: it is a ${typeof value}`)
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
    // Not a named statement: the caller's connection may go through a pooler in transaction mode.
    db.query<{ id: string }>({
      text: `select leasehold.submit(stage => $1, payload => $2::jsonb, priority => $3, run_at => $4, key => $5, run_id => $6,
        title => $7, max_attempts => $8, timeout => $9 * interval '1 millisecond', depends_on => $10::bigint[],
        concurrency_key => $11, meta => $12::jsonb, on_key_conflict => $13)::text as id`,
      values: [
        f.stage,
        json('the payload', f.payload),
        f.priority,
        f.run_at,
        f.key,
        f.run_id,
        f.title,
        f.max_attempts,
        f.timeout_ms,
        f.depends_on,
        f.concurrency_key,
        f.meta === undefined ? null : json('meta', f.meta),
        options.onKeyConflict ?? 'error',
      ],
    }),
  )
  return rows[0]!.id
}

/** Rows and UTF-16 units per INSERT: beyond a few thousand nothing is gained, and no JSON text outgrows memory. */
const chunkRows = 5000
const chunkLength = 16 * 1024 * 1024

/**
 * Submits any number of tasks of one stage; returns their ids in the order of `items`.
 *
 * All or none: given a pool, one transaction of its own; given a client, the caller's. 100,000 rows take a second or so.
 * A key conflict fails the whole submission with {@link KeyConflictError}. Errors as in {@link submit}.
 */
export async function submitMany<P>(
  db: Db,
  stage: Stage<P> | string,
  items: SubmitItem<P>[],
): Promise<string[]> {
  const chunks = chunked(items.map((item, nr) => taskFields(stage as Stage<never>, item.payload, item, nr)))
  if (chunks.length === 0) return []
  return translating(() =>
    inTransaction(db, async (tx) => {
      const ids: string[] = []
      for (const chunk of chunks) {
        const { rows } = await tx.query<{ id: string }>({
          text: `insert into leasehold.tasks (stage, payload, priority, run_at, key, run_id, title, max_attempts, timeout,
              depends_on, concurrency_key, meta)
            select stage, coalesce(payload, 'null'), priority, run_at, key, run_id, title, max_attempts, timeout_ms * interval '1 millisecond',
              depends_on, concurrency_key, meta
            from json_to_recordset($1::json) as x(stage text, payload jsonb, priority smallint, run_at timestamptz, key text,
              run_id text, title text, max_attempts smallint, timeout_ms bigint, depends_on bigint[], concurrency_key text,
              meta jsonb)
            returning id`,
          values: [chunk],
        })
        for (const row of rows) ids.push(row.id)
      }
      return ids
    }),
  )
}

/** JSON arrays of tasks, each a comfortable INSERT. */
function chunked(tasks: Record<string, unknown>[]): string[] {
  const chunks: string[] = []
  let rows: string[] = []
  let length = 0
  const flush = (): void => {
    if (rows.length > 0) chunks.push(`[${rows.join(',')}]`)
    rows = []
    length = 0
  }
  for (const [i, task] of tasks.entries()) {
    if (typeof task['payload'] === 'function' || typeof task['payload'] === 'symbol')
      json(`payload ${i}`, task['payload'])
    const row = json(`task ${i}`, task)
    if (rows.length === chunkRows || length + row.length > chunkLength) flush()
    rows.push(row)
    length += row.length
  }
  flush()
  return chunks
}
