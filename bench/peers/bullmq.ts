/**
 * BullMQ with its PostgreSQL backend: addBulk, and one Worker with the wanted concurrency. It claims one job at a time,
 * each fused with the completion of the one before. An idle worker looks every 100 ms beside being notified: with its
 * default of 5 s a bulk that reaches a waiting worker stood for seconds after its first job.
 */
import {
  createPostgresBackend,
  type PgPool,
  type PostgresConnectionOptions,
  type PostgresQueueBackend,
  Queue,
  runMigrations,
  Worker,
} from 'bullmq'
import { Pool } from 'pg'
import { type BenchTask, lazily, type System, type WorkOptions } from '../system.ts'

export const batch = 1000
export const claimStatement = '%move_to_completed%'

/** Its own declaration of a pool is narrower than a pool's; it takes any. */
function asPgPool(pool: unknown): PgPool {
  return pool as PgPool
}

/** Opens it on a database. */
export async function open(url: string): Promise<System> {
  const pools: Pool[] = []
  const connect = (max: number): Pool => {
    const pool = new Pool({ connectionString: url, max, options: '-c search_path=bullmq' })
    pools.push(pool)
    return pool
  }
  const own = connect(4)
  const sending = lazily(
    () =>
      new Queue<
        BenchTask,
        unknown,
        string,
        BenchTask,
        unknown,
        string,
        PostgresQueueBackend,
        PostgresConnectionOptions
      >('bench', { connection: asPgPool(own) }, createPostgresBackend),
  )
  return {
    async install() {
      const client = await own.connect()
      await runMigrations(client, 'bullmq')
      client.release()
      await sending().waitUntilReady()
    },
    async submit(tasks) {
      const jobs = tasks.map(({ payload, priority, delayMs, key }) => ({
        name: 'bench',
        data: payload,
        opts: {
          // Lower is sooner; 0 stands before all.
          ...(priority === undefined ? {} : { priority: 4 - priority }),
          ...(delayMs === undefined ? {} : { delay: delayMs }),
          ...(key === undefined ? {} : { deduplication: { id: key } }),
        },
      }))
      if (jobs.length > 1) await sending().addBulk(jobs)
      else for (const { name, data, opts } of jobs) await sending().add(name, data, opts)
    },
    async work({ concurrency, run }: WorkOptions) {
      const worker = new Worker<
        BenchTask,
        void,
        string,
        PostgresQueueBackend,
        number,
        PostgresConnectionOptions
      >(
        'bench',
        (job) => run(job.data),
        { connection: asPgPool(connect(Math.min(concurrency, 32) + 2)), concurrency, drainDelay: 0.1 },
        createPostgresBackend,
      )
      worker.on('error', (error) => process.stderr.write(`bullmq: ${error.message}\n`))
      await worker.waitUntilReady()
      return { stop: () => worker.close() }
    },
    async unfinished() {
      const counts = await sending().getJobCounts('wait', 'active', 'delayed', 'prioritized')
      return Object.values(counts).some((n) => n > 0)
    },
    async ended() {
      const counts = await sending().getJobCounts('completed', 'failed')
      return Object.values(counts).reduce((sum, n) => sum + n, 0)
    },
    async close() {
      if (sending.made()) await sending().close()
      await Promise.all(pools.map((pool) => pool.end()))
    },
  }
}
