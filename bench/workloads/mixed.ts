/**
 * W7: what a queue meets in daily life. Of every 100 tasks 1 takes 200 ms and 10 take 5 ms, 10 fail for good, 10 carry a
 * unique key (each its own: nothing is refused), 10 come up to two seconds later; four priorities.
 *
 * Tasks that fail have one attempt: the delays between attempts differ too much to be compared. pg-boss knows unique keys
 * within a span of time only, which is what it is given.
 */
import { drain } from '../drain.ts'
import { benchTask, type Submission } from '../system.ts'
import { bySize, numberOf, type Workload } from '../workload.ts'

/** The same for everybody: what task n is follows from n. */
function mixedTask(n: number): Submission {
  const kind = (n * 37) % 100 // each kind once in a hundred, and of each as many in every priority
  return {
    payload: benchTask(n, { ms: kind === 0 ? 200 : kind <= 10 ? 5 : 0, fail: kind > 10 && kind <= 20 }),
    priority: Math.floor(n / 100) % 4,
    ...(kind > 20 && kind <= 30 ? { key: `key-${n}` } : {}),
    ...(kind > 30 && kind <= 40 ? { delayMs: (n * 7) % 2000 } : {}),
  }
}

export const workload: Workload = {
  id: 'W7',
  name: 'mixed',
  about: 'short and long tasks, four priorities, failures, unique keys, delays',
  shown: [
    { figure: 'tasksPerSecond', unit: 'tasks/s', better: 'more' },
    { figure: 'cpuSecondsPer1000', unit: 's CPU/1,000', better: 'less' },
    { figure: 'postgresCpuSecondsPer1000', unit: 's Postgres CPU/1,000', better: 'less' },
    { figure: 'nodeCpuSecondsPer1000', unit: 's Node CPU/1,000', better: 'less' },
    { figure: 'walBytesPerTask', unit: 'WAL bytes/task', better: 'less' },
    { figure: 'commitsPerTask', unit: 'commits/task', better: 'less' },
    { figure: 'deadRowsPerTask', unit: 'dead rows/task', better: 'less' },
    { figure: 'memoryMib', unit: 'MiB Node, peak', better: 'less' },
  ],
  plan: ({ size, contenders }) => [
    {
      title: 'mixed work, 100 handlers at once',
      cells: contenders
        .filter(({ name }) => name !== 'raw')
        .map((contender) => ({
          contender,
          parameters: { tasks: Math.min(bySize(size, 500, 50_000, 200_000), contender.mostTasks) },
        })),
    },
  ],
  async measure(bench, parameters) {
    const figures = await drain(bench, {
      tasks: numberOf(parameters, 'tasks'),
      concurrency: 100,
      make: mixedTask,
    })
    return { figures }
  },
}
