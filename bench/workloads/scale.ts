/**
 * W6: what does a task cost when 1, 8, 64 workers share the queue, as processes and as slots of one process?
 *
 * Every worker has 10 handlers. On a machine with few cores more workers cannot be faster; what they cost each other is
 * the CPU per task.
 */
import { drain } from '../drain.ts'
import { bySize, numberOf, type Workload } from '../workload.ts'

export const workload: Workload = {
  id: 'W6',
  name: 'scale',
  about: '1 to 64 workers, as processes and as slots of one process: CPU per task',
  shown: [
    { figure: 'cpuSecondsPer1000', unit: 's CPU/1,000', better: 'less' },
    { figure: 'postgresCpuSecondsPer1000', unit: 's Postgres CPU/1,000', better: 'less' },
    { figure: 'tasksPerSecond', unit: 'tasks/s', better: 'more' },
    { figure: 'memoryMib', unit: 'MiB Node, peak, all', better: 'less' },
  ],
  plan({ size, contenders }) {
    const counts = bySize(size, [1, 3], [1, 8, 64], [1, 2, 4, 8, 16, 32, 64])
    const tasks = bySize(size, 600, 50_000, 200_000)
    return ['processes', 'slots'].map((as) => ({
      title: `workers as ${as}, 10 handlers each`,
      cells: contenders
        .filter(({ name, slots }) => name !== 'raw' && (as === 'processes' || slots))
        .flatMap((contender) =>
          counts.map((workers) => ({
            contender,
            setting: `${workers} ${as}`,
            parameters: { as, workers, tasks: Math.min(tasks, contender.mostTasks) },
          })),
        ),
    }))
  },
  async measure(bench, parameters) {
    const workers = numberOf(parameters, 'workers')
    const as = parameters['as'] === 'processes' ? { processes: workers } : { slots: workers }
    const figures = await drain(bench, { tasks: numberOf(parameters, 'tasks'), concurrency: 10, ...as })
    return { figures: { ...figures, workers } }
  },
}
