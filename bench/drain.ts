/**
 * Drains: tasks are submitted, then worked off, and only what has durably ended counts.
 *
 * The clock runs from the order to begin until the database knows no unfinished task; every number was seen by exactly
 * one handler and the database's own count agrees, or the measurement fails.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { type Submission, benchTask } from './system.ts'
import { countSoFar, peakMib, residentMib, type Spent, startStopwatch } from './stopwatch.ts'
import type { Bench, Figures } from './workload.ts'
import { startWorkers, type Workers } from './workers.ts'

/** How a drain is worked off. */
export interface DrainOptions {
  readonly tasks: number
  readonly concurrency: number
  /** What is submitted as number n; default: a plain task. */
  readonly make?: (n: number) => Submission
}

/** Submits tasks `from` to `to - 1` in the system's own batches, two at a time. */
export async function seed(
  { system, batch }: Bench,
  from: number,
  to: number,
  make: (n: number) => Submission = (n) => ({ payload: benchTask(n) }),
): Promise<void> {
  let next = from
  const submitter = async () => {
    while (next < to) {
      const first = next
      next = Math.min(to, first + batch)
      await system.submit(Array.from({ length: next - first }, (_, i) => make(first + i)))
    }
  }
  await Promise.all([submitter(), submitter()])
}

/** The same start for everybody: statistics are fresh and nothing is left to write from before. */
export async function settleDown({ client }: Bench): Promise<void> {
  await client.query('vacuum analyze')
  await client.query('checkpoint')
}

/** Waits until the database knows no unfinished task. */
export async function finished({ system }: Bench): Promise<void> {
  while (await system.unfinished()) await sleep(2)
}

/** Throws unless the database's own count is this. */
export async function assertEnded({ system, contender }: Bench, expected: number): Promise<void> {
  const ended = await system.ended()
  if (ended !== null && ended !== expected)
    throw new Error(`${contender.name}: the database knows ${ended} ended tasks of ${expected}`)
}

/**
 * Stops workers that were kept busy to the end, and throws when a task ran twice, or when the database knows another number
 * of ended tasks than handlers were entered. Returns that number.
 */
export async function stopBusy(bench: Bench, workers: Workers): Promise<number> {
  const ran = await workers.stop(null)
  await assertEnded(bench, ran)
  return ran
}

/** Seeds, drains, checks. */
export async function drain(bench: Bench, options: DrainOptions): Promise<Figures> {
  const { tasks, concurrency } = options
  await seed(bench, 0, tasks, options.make)
  await settleDown(bench)
  const workers = await startWorkers(bench.contender.name, bench.url, {
    processes: 1,
    slots: 1,
    concurrency,
  })
  const before = await countSoFar(bench.client)
  const stop = await startStopwatch(bench.client, bench.postmaster, workers.pids)
  await workers.go()
  const memoryOfAll = (of: (pid: number) => number) => workers.pids.reduce((sum, pid) => sum + of(pid), 0)
  await workers.until(() => workers.ended >= tasks / 5)
  const earlyMemoryMib = memoryOfAll(residentMib)
  await workers.until(() => workers.ended >= tasks)
  await finished(bench)
  const spent = await stop()
  const memoryMib = memoryOfAll(peakMib)
  await workers.stop(tasks)
  const after = await countSoFar(bench.client)
  await assertEnded(bench, tasks)
  return {
    tasks,
    tasksPerSecond: tasks / spent.seconds,
    ...costs(spent, tasks),
    commitsPerTask: (after.commits - before.commits) / tasks,
    buffersPerTask: (after.buffers - before.buffers) / tasks,
    deadRowsPerTask: after.deadRows / tasks,
    earlyMemoryMib,
    memoryMib,
  }
}

/** CPU per 1,000 tasks and WAL per task. */
export function costs(spent: Spent, tasks: number): Figures {
  return {
    postgresCpuSecondsPer1000: (spent.postgresCpuSeconds / tasks) * 1000,
    nodeCpuSecondsPer1000: (spent.nodeCpuSeconds / tasks) * 1000,
    cpuSecondsPer1000: ((spent.postgresCpuSeconds + spent.nodeCpuSeconds) / tasks) * 1000,
    walBytesPerTask: spent.walBytes / tasks,
  }
}
