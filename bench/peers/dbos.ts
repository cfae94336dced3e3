/**
 * The DBOS SDK's queues: a workflow without steps per task, enqueued by its client, worked on from a queue that looks
 * every 10 ms (the default is once a second).
 *
 * It knows one executor per process and has no bulk enqueue: a batch is as many enqueues as its pool takes at once.
 */
import { DBOS, DBOSClient } from '@dbos-inc/dbos-sdk'
import { Pool } from 'pg'
import { type BenchTask, lazily, type System, type WorkOptions } from '../system.ts'

export const batch = 100
export const claimStatement = '%select workflow_uuid%order by priority%skip locked%'

const version = 'bench'
const pollMs = 10
const logger = {
  info() {},
  debug() {},
  warn() {},
  error(entry: unknown) {
    process.stderr.write(`dbos: ${String(entry)}\n`)
  },
}

/** Opens it on a database. */
export async function open(url: string): Promise<System> {
  const pool = new Pool({ connectionString: url, max: 2 })
  const sending = lazily(() =>
    DBOSClient.create({ systemDatabaseUrl: url, systemDatabasePoolSize: 8, applicationName: 'bench' }),
  )
  return {
    async install() {
      await DBOS.migrate(url)
    },
    async submit(tasks) {
      const own = await sending()
      await Promise.all(
        tasks.map(({ payload, priority, delayMs, key }) =>
          own.enqueue(
            {
              queueName: 'bench',
              workflowName: 'bench',
              appVersion: version,
              ...(priority === undefined ? {} : { priority: 4 - priority }),
              ...(delayMs === undefined ? {} : { delaySeconds: delayMs / 1000 }),
              ...(key === undefined ? {} : { deduplicationID: key }),
            },
            payload,
          ),
        ),
      )
    },
    async work({ concurrency, slot, run }: WorkOptions) {
      DBOS.setConfig({
        name: 'bench',
        systemDatabaseUrl: url,
        systemDatabasePoolSize: 20,
        applicationVersion: version,
        executorID: slot,
        logger,
        runMigrations: false,
      })
      DBOS.registerWorkflow((task: BenchTask) => run(task), { name: 'bench' })
      await DBOS.launch()
      await DBOS.registerQueue('bench', { workerConcurrency: concurrency, minPollingIntervalMs: pollMs })
      return { stop: () => DBOS.shutdown() }
    },
    async unfinished() {
      const { rowCount } = await pool.query(
        `select from dbos.workflow_status where status in ('ENQUEUED', 'PENDING', 'DELAYED') limit 1`,
      )
      return rowCount! > 0
    },
    async ended() {
      const { rows } = await pool.query<{ n: string }>(
        `select count(*) as n from dbos.workflow_status where status in ('SUCCESS', 'ERROR') and queue_name = 'bench'`,
      )
      return Number(rows[0]!.n)
    },
    async close() {
      if (sending.made()) await (await sending()).destroy()
      await pool.end()
    },
  }
}
