/**
 * W1: how fast are waiting tasks worked off, at 500, 10 and 1 handlers at once?
 */
import { type Contender, nothingAhead } from '../contenders.ts'
import { drain } from '../drain.ts'
import { bySize, type Comparison, numberOf, type Sizes, type Workload } from '../workload.ts'

/** With one place pg-boss takes one job per poll, two a second. */
function alone({ name }: Contender, concurrency: number): number {
  return name === 'pg-boss' && concurrency === 1 ? 40 : Infinity
}

function comparison(
  title: string,
  tasks: number,
  concurrency: number,
  who: readonly Contender[],
): Comparison {
  return {
    title: `${title}, ${concurrency} handler${concurrency === 1 ? '' : 's'} at once, one process`,
    cells: who.map((contender) => ({
      contender,
      parameters: { tasks: Math.min(tasks, contender.mostTasks, alone(contender, concurrency)), concurrency },
    })),
  }
}

export const workload: Workload = {
  id: 'W1',
  name: 'drain',
  about: 'drain of pre-inserted no-op tasks',
  shown: [
    { figure: 'tasksPerSecond', unit: 'tasks/s', better: 'more' },
    { figure: 'postgresCpuSecondsPer1000', unit: 's Postgres CPU/1,000', better: 'less' },
    { figure: 'nodeCpuSecondsPer1000', unit: 's Node CPU/1,000', better: 'less' },
    { figure: 'walBytesPerTask', unit: 'WAL bytes/task', better: 'less' },
    { figure: 'commitsPerTask', unit: 'commits/task', better: 'less' },
    { figure: 'buffersPerTask', unit: 'buffers/task', better: 'less' },
    { figure: 'deadRowsPerTask', unit: 'dead rows/task', better: 'less' },
    { figure: 'earlyMemoryMib', unit: 'MiB Node, after a fifth', better: 'less' },
    { figure: 'memoryMib', unit: 'MiB Node, peak', better: 'less' },
  ],
  plan({ size, contenders }: Sizes) {
    const many = bySize(size, 1000, 200_000, 1_000_000)
    const some = bySize(size, 400, 50_000, 50_000)
    const few = bySize(size, 100, 20_000, 20_000)
    const queues = contenders.filter(({ name }) => name !== 'raw')
    // Few handlers are quick because tasks are fetched ahead of them: so they are shown without that too.
    const withNothingAhead = queues.flatMap((own) => (own.kind === 'own' ? [own, nothingAhead] : [own]))
    return [
      comparison(`drain of ${many.toLocaleString('en')}`, many, 500, contenders),
      comparison(`drain of ${some.toLocaleString('en')}`, some, 10, withNothingAhead),
      comparison(`drain of ${few.toLocaleString('en')}`, few, 1, withNothingAhead),
    ]
  },
  async measure(bench, parameters) {
    const tasks = numberOf(parameters, 'tasks')
    const concurrency = numberOf(parameters, 'concurrency')
    return { figures: await drain(bench, { tasks, concurrency }) }
  },
}
