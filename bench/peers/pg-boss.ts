/**
 * pg-boss with batches: it fetches and completes a batch at once, goes on without a pause while batches come back full,
 * and is woken by NOTIFY. Two workers share the places, so that two batches are under way.
 */
import { Pool } from 'pg'
import { PgBoss } from 'pg-boss'
import { type BenchTask, lazily, type System, type WorkOptions } from '../system.ts'

export const batch = 1000
export const claimStatement = '%next as%skip locked%update pgboss%'

/** Opens it on a database. */
export async function open(url: string): Promise<System> {
  const pool = new Pool({ connectionString: url, max: 2 })
  const bosses: PgBoss[] = []
  const boss = async (working: boolean): Promise<PgBoss> => {
    const made = new PgBoss({ connectionString: url, max: 10, useListenNotify: working, schedule: false })
    made.on('error', (error) => process.stderr.write(`pg-boss: ${error.message}\n`))
    await made.start()
    bosses.push(made)
    return made
  }
  const sending = lazily(() => boss(false))
  return {
    async install() {
      await (await sending()).createQueue('bench', { notify: true })
    },
    async submit(tasks) {
      const jobs = tasks.map(({ payload, priority, delayMs, key }) => ({
        data: payload,
        ...(priority === undefined ? {} : { priority }),
        ...(delayMs === undefined ? {} : { startAfter: new Date(Date.now() + delayMs) }),
        // Its standard queues know uniqueness within a span of time.
        ...(key === undefined ? {} : { singletonKey: key, singletonSeconds: 3600 }),
        ...(payload.fail ? { retryLimit: 0 } : {}),
      }))
      const own = await sending()
      if (jobs.length > 1) await own.insert('bench', jobs)
      else for (const { data, ...options } of jobs) await own.send('bench', data, options)
    },
    async work({ concurrency, run }: WorkOptions) {
      const own = await boss(true)
      const workers = concurrency > 1 ? 2 : 1
      const options = {
        batchSize: Math.max(1, Math.floor(concurrency / workers)),
        localConcurrency: workers,
        burstWhenBatchFull: true,
        pollingIntervalSeconds: 0.5,
        notifyPollingIntervalSeconds: 0.5,
        perJobResults: true as const,
      }
      await own.work<BenchTask, unknown, typeof options>('bench', options, (jobs) =>
        Promise.all(
          jobs.map(({ id, data }) =>
            run(data).then(
              () => ({ id, status: 'completed' as const }),
              () => ({ id, status: 'failed' as const }),
            ),
          ),
        ),
      )
      return { stop: () => own.stop({ graceful: true, timeout: 30_000 }) }
    },
    async unfinished() {
      const { rowCount } = await pool.query(
        `select from pgboss.job where name = 'bench' and state < 'completed' limit 1`,
      )
      return rowCount! > 0
    },
    async ended() {
      const { rows } = await pool.query<{ n: string }>(
        `select count(*) as n from pgboss.job where name = 'bench' and state in ('completed', 'failed')`,
      )
      return Number(rows[0]!.n)
    },
    async close() {
      await Promise.all(bosses.map((own) => own.stop({ graceful: false }).catch(() => {})))
      await pool.end()
    },
  }
}
