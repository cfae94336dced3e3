/**
 * graphile-worker's side of each workload: its library mode, its documented fast settings where `localQueue` is given.
 *
 * It keeps no history and has no leases that expire by heartbeat; the table says so.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { Logger, makeWorkerUtils, type Runner, run } from 'graphile-worker'
import { Client } from 'pg'
import { startClock } from '../clock.ts'
import { percentile } from '../measure.ts'

const [workload, url, text] = process.argv.slice(2) as [string, string, string]
const p = JSON.parse(text) as Record<string, number>

const tools = await makeWorkerUtils({ connectionString: url })
await tools.migrate()
const client = new Client({ connectionString: url })
await client.connect()

async function insertJobs(count: number): Promise<void> {
  for (let left = count; left > 0; left -= 20_000) {
    await client.query(
      `select count(*) from graphile_worker.add_jobs(array(
         select row('bench', json_build_object('n', g, 'pad', repeat('x', 120)), null, null, null, null, null, null)::graphile_worker.job_spec
         from generate_series(1, $1::int) g))`,
      [Math.min(left, 20_000)],
    )
  }
  await client.query('analyze')
  await client.query('checkpoint')
}

function start(concurrency: number, task: () => Promise<void>): Promise<Runner> {
  const batched = { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 }
  return run({
    connectionString: url,
    concurrency,
    maxPoolSize: 10,
    noHandleSignals: true,
    logger: new Logger(() => () => {}),
    taskList: { bench: task },
    preset: { worker: p['localQueue'] ? batched : {} },
  })
}

async function drain(): Promise<object> {
  await insertJobs(p['tasks']!)
  let ran = 0
  const stop = await startClock(client)
  const runner = await start(p['concurrency']!, async () => void (ran += 1))
  while (ran < p['tasks']!) await sleep(5)
  // Durable completions count, as on our side: its table is empty when the last delete has committed.
  while ((await client.query('select from graphile_worker._private_jobs limit 1')).rowCount! > 0)
    await sleep(2)
  const stretch = await stop()
  await runner.stop()
  return {
    tasksPerSecond: p['tasks']! / stretch.seconds,
    nodeMicrosPerTask: stretch.cpuMicros / p['tasks']!,
    walBytesPerTask: stretch.walBytes / p['tasks']!,
  }
}

async function latency(): Promise<object> {
  let entered: (() => void) | null = null
  const runner = await start(10, async () => entered?.())
  await sleep(1000)
  const samples: number[] = []
  for (let i = 0; i < p['samples']!; i++) {
    const reached = new Promise<void>((resolve) => (entered = resolve))
    const sentAt = performance.now()
    await client.query(`select graphile_worker.add_job('bench', '{}')`)
    await reached
    samples.push(performance.now() - sentAt)
    await sleep(10 + Math.random() * 40)
  }
  await runner.stop()
  return { p50Ms: percentile(samples, 0.5), p99Ms: percentile(samples, 0.99) }
}

const workloads: Record<string, () => Promise<object>> = { drain, latency }
console.log(JSON.stringify(await workloads[workload]!()))
await tools.release()
await client.end()
process.exit(0)
