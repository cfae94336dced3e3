/**
 * graphile-worker in its library mode: as it comes (`default`), or with its documented fast settings (`batched`).
 *
 * It deletes what is done and its locks end after four hours, so a crashed worker's jobs wait for long; the tables say so.
 */
import { Logger, makeWorkerUtils, run } from 'graphile-worker'
import { Pool } from 'pg'
import type { BenchTask, System, WorkOptions } from '../system.ts'

export const batch = 1000
export const claimStatement = '%update%_private_jobs%locked_at%'

/**
 * Of its local queue, at least: its performance page's fastest setting takes 500 for 24 handlers. With 500 handlers twice as
 * many as run proved quicker than as many (39,000 and 35,000 to 36,000 tasks/s with 1,000 and 2,000 against 30,000 to 32,000).
 */
const queueSize = 500

/** Local queue and batching, no delay. */
function settings(variant: string | null, concurrency: number): object {
  if (variant !== 'batched') return {}
  return {
    localQueue: { size: Math.max(2 * concurrency, queueSize) },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
  }
}

/** Opens it on a database. */
export async function open(url: string, variant: string | null): Promise<System> {
  const pool = new Pool({ connectionString: url, max: 8 })
  const tools = await makeWorkerUtils({ pgPool: pool, logger: new Logger(() => () => {}) })
  return {
    install: () => tools.migrate(),
    async submit(tasks) {
      await tools.addJobs(
        tasks.map(({ payload, priority, delayMs, key }) => ({
          identifier: 'bench',
          payload,
          ...(priority === undefined ? {} : { priority: -priority }),
          ...(delayMs === undefined ? {} : { runAt: new Date(Date.now() + delayMs) }),
          ...(key === undefined ? {} : { jobKey: key }),
          ...(payload.fail ? { maxAttempts: 1 } : {}),
        })),
      )
    },
    async work({ concurrency, run: handle }: WorkOptions) {
      const runner = await run({
        connectionString: url,
        concurrency,
        maxPoolSize: 10,
        noHandleSignals: true,
        logger: new Logger(() => () => {}),
        taskList: { bench: (payload) => handle(payload as BenchTask) },
        preset: { worker: settings(variant, concurrency) },
      })
      return { stop: () => runner.stop() }
    },
    async unfinished() {
      const { rowCount } = await pool.query(
        'select from graphile_worker._private_jobs where attempts < max_attempts or locked_at is not null limit 1',
      )
      return rowCount! > 0
    },
    ended: () => Promise.resolve(null),
    async close() {
      await tools.release()
      await pool.end()
    },
  }
}
