/**
 * W6: what does a task cost when 1, 8, 64 workers share the queue, as processes and as slots of one process?
 *
 * Every worker has 10 handlers. On a machine with few cores more workers cannot be faster; what they cost each other is
 * the CPU per task. They are started before the first task is submitted, and what a start costs is a figure of its own:
 * in a drain of some seconds it would hide the other one. They are held still while the backlog is submitted: beside 64
 * busy processes a submitter gets so little of two cores that they would wait for it. A first backlog, half as large, is
 * not counted: programs and plans are compiled then, in every process and every connection. Each worker begins with small
 * exchanges, and the VACUUM ANALYZE before the counted backlog makes every connection plan its statements anew: how much of
 * the figure that is with 64 of them is shown by a backlog four times as long, of Leasehold alone.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { assertEnded, costs, finished, seed, settleDown } from '../drain.ts'
import { peakMib, startStopwatch } from '../stopwatch.ts'
import { bySize, numberOf, type Workload } from '../workload.ts'
import { startWorkers } from '../workers.ts'

/** After so long without tasks the looks for more have become rare. */
const idleMs = 2000

export const workload: Workload = {
  id: 'W6',
  name: 'scale',
  about: '1 to 64 workers, as processes and as slots of one process: CPU per task',
  shown: [
    { figure: 'cpuSecondsPer1000', unit: 's CPU/1,000', better: 'less' },
    { figure: 'postgresCpuSecondsPer1000', unit: 's Postgres CPU/1,000', better: 'less' },
    { figure: 'nodeCpuSecondsPer1000', unit: 's Node CPU/1,000', better: 'less' },
    { figure: 'walBytesPerTask', unit: 'WAL bytes/task', better: 'less' },
    { figure: 'tasksPerSecond', unit: 'tasks/s', better: 'more' },
    { figure: 'startCpuSeconds', unit: 's CPU to start one', better: 'less' },
    { figure: 'memoryMib', unit: 'MiB Node, peak, all', better: 'less' },
  ],
  plan({ size, contenders }) {
    const counts = bySize(size, [1, 3], [1, 8, 64], [1, 2, 4, 8, 16, 32, 64])
    const backlog = bySize(size, 600, 100_000, 200_000)
    const comparison = (as: string, length: string, among: typeof contenders, most: number) => ({
      title: `workers as ${as}, 10 handlers each, with a ${length}`,
      cells: among
        .filter(({ name, slots }) => name !== 'raw' && (as === 'processes' || slots))
        .flatMap((contender) =>
          counts.map((workers) => ({
            contender,
            setting: `${workers} ${as}`,
            parameters: { as, workers, tasks: Math.min(most, contender.mostTasks) },
          })),
        ),
    })
    const own = contenders.filter(({ name }) => name === 'leasehold')
    return ['processes', 'slots'].flatMap((as) => [
      comparison(as, 'backlog', contenders, backlog),
      comparison(as, 'long backlog', own, 4 * backlog),
    ])
  },
  async measure(bench, parameters) {
    const workers = numberOf(parameters, 'workers')
    const tasks = numberOf(parameters, 'tasks')
    const first = Math.floor(tasks / 2)
    const [processes, slots] = parameters['as'] === 'processes' ? [workers, 1] : [1, workers]
    const started = await startWorkers(bench.contender.name, bench.url, { processes, slots, concurrency: 10 })
    const measure = () => startStopwatch(bench.client, bench.postmaster, started.pids)
    const endOfStart = await measure()
    await started.go()
    const start = await endOfStart()
    const workOff = async (from: number, to: number) => {
      await sleep(idleMs)
      started.holdStill()
      await seed(bench, from, to)
      await settleDown(bench)
      const stop = await measure()
      started.goOn()
      await started.until(() => started.ended >= to)
      await finished(bench)
      return stop()
    }
    await workOff(0, first)
    const spent = await workOff(first, first + tasks)
    const memoryMib = started.pids.reduce((sum, pid) => sum + peakMib(pid), 0)
    await started.stop(first + tasks)
    await assertEnded(bench, first + tasks)
    return {
      figures: {
        workers,
        tasksPerSecond: tasks / spent.seconds,
        ...costs(spent, tasks),
        startCpuSeconds: (start.nodeCpuSeconds + start.postgresCpuSeconds) / workers,
        memoryMib,
      },
    }
  },
}
