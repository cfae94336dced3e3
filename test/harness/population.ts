/**
 * A database with a task in every state, made by the library's own verbs.
 *
 * One worker `slot-1` lives and holds one task; another one, `slot-2`, fell silent long ago by the database's clock.
 */
import { exchange, registerWorker, submit, submitMany, type ExchangeRequest } from '@leasehold/queue'
import type { TestDatabase } from './database.ts'

/** The ids, by what became of the tasks. */
export interface Population {
  readonly ready: string
  readonly running: string
  readonly scheduled: string
  readonly waiting: string
  readonly done: string
  readonly dead: string
  readonly cancelled: string
  readonly workerId: string
}

const stageNames = ['echo', 'broken', 'endless']

const nothing: Omit<ExchangeRequest, 'workerId'> = {
  doneIds: [],
  doneFences: [],
  endings: null,
  children: null,
  notes: null,
  stages: null,
  limits: null,
  runId: null,
  promote: false,
  wakeMs: null,
}

/** Fills a database. The run `run-1` has one task of every state; its keys are `key-<state>`. */
export async function populate({ pool }: TestDatabase): Promise<Population> {
  for (const stage of stageNames) await pool.query('select leasehold.register_stage($1)', [stage])
  const worker = (slot: string): Promise<string> =>
    registerWorker(pool, {
      slot,
      stages: stageNames,
      // It never beats, and is to live as long as the file that asks about it, however slow that is.
      leaseTtlMs: 3_600_000,
      beatIntervalMs: 1_200_000,
      host: 'host.example',
      pid: 4711,
      version: 'test',
      concurrency: 4,
    }).then((registration) => registration.workerId)
  await worker('slot-2')
  await pool.query(
    "update leasehold.workers set beat_at = beat_at - interval '4 h', expires_at = beat_at - interval '3 h'",
  )
  const workerId = await worker('slot-1')

  const run = { runId: 'run-1' }
  const done = await submit(pool, 'echo', { n: 1 }, { ...run, key: 'key-done', title: 'first' })
  const dead = await submit(pool, 'broken', { n: 2 }, { ...run, key: 'key-dead' })
  const cancelled = await submit(pool, 'broken', { n: 3 }, { ...run, key: 'key-cancelled' })
  const running = await submit(
    pool,
    'endless',
    { n: 4 },
    { ...run, key: 'key-running', title: 'long \u001b[31mtitle' },
  )
  const claim = { ...nothing, workerId, stages: stageNames, limits: [9, 9, 9] }
  const { claimed } = await exchange(pool, claim)
  const fences = new Map(claimed.map(({ taskId, fence }) => [taskId, fence]))
  const ending = (id: string, more: object): object => ({ task_id: id, fence: fences.get(id), ...more })
  await exchange(pool, {
    ...nothing,
    workerId,
    endings: JSON.stringify([
      ending(done, { outcome: 'done', result: { answer: 42 } }),
      ending(dead, {
        outcome: 'fail',
        retryable: false,
        error: { code: 'E_BROKEN', message: 'it is \u001b[31mbroken' },
      }),
      ending(cancelled, { outcome: 'cancel', error: { code: 'cancelled', message: 'not wanted' } }),
    ]),
  })
  const [ready = ''] = await submitMany(pool, 'echo', [{ payload: { n: 5 }, ...run, key: 'key-ready' }])
  const scheduled = await submit(
    pool,
    'echo',
    { n: 6 },
    { ...run, key: 'key-scheduled', runAt: new Date('2100-01-01') },
  )
  const waiting = await submit(pool, 'echo', { n: 7 }, { ...run, key: 'key-waiting', dependsOn: [ready] })
  return { ready, running, scheduled, waiting, done, dead, cancelled, workerId }
}
