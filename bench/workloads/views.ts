/**
 * W9: what do the health views cost, read every second while the queue is busy, and how fast do they answer in front of a
 * large backlog?
 *
 * Leasehold only. The backlog has a lower priority, so the same work is done with and without it.
 */
import { Client } from 'pg'
import { benchTask } from '../system.ts'
import { seed, settleDown, stopBusy } from '../drain.ts'
import { saturate } from '../load.ts'
import { cpuOf, startStopwatch } from '../stopwatch.ts'
import { type Bench, bySize, type Figures, numberOf, type Workload } from '../workload.ts'
import { startWorkers } from '../workers.ts'

const views = [
  'worker_health',
  'stage_health',
  'active_leases',
  'dead_workers',
  'recent_failures',
  'open_incidents',
  'database_health',
  'invariant_violations',
]
const newestTasks = 'select * from leasehold.task_status order by task_id desc limit 100'

/** What looking took: each answer in ms by view, and the CPU of the server for all of them in s. */
interface Looked {
  readonly took: ReadonlyMap<string, readonly number[]>
  readonly cpuSeconds: number
}

/** Reads all views once a second until told to stop. */
function poll({ url }: Bench): () => Promise<Looked> {
  const took = new Map<string, number[]>()
  let cpuSeconds = 0
  const stop = new AbortController()
  const polling = (async () => {
    const client = new Client({ connectionString: url })
    await client.connect()
    while (!stop.signal.aborted) {
      const round = performance.now()
      for (const [name, text] of [
        ...views.map((view) => [view, `select * from leasehold.${view}`] as const),
        ['task_status', newestTasks] as const,
      ]) {
        const began = performance.now()
        await client.query(text)
        took.set(name, [...(took.get(name) ?? []), performance.now() - began])
      }
      const left = 1000 - (performance.now() - round)
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, left)))
    }
    const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid')
    cpuSeconds = cpuOf(rows[0]!.pid)
    await client.end()
  })()
  return async () => {
    stop.abort()
    await polling
    return { took, cpuSeconds }
  }
}

export const workload: Workload = {
  id: 'W9',
  name: 'views',
  about: 'health views read every second while the queue is busy, in front of a backlog',
  shown: [
    { figure: 'tasksPerSecond', unit: 'tasks/s', better: 'more' },
    { figure: 'tasksPerSecondOfFirst', unit: 'of the rate without', better: 'more' },
    { figure: 'lookingCpuShare', unit: '% of its CPU for the views', better: 'less' },
    { figure: 'slowestViewMedianMs', unit: 'ms, slowest view, median', better: 'less' },
    { figure: 'slowestMs', unit: 'ms, slowest answer of all', better: 'less' },
  ],
  plan({ size, contenders }) {
    const backlog = bySize(size, 2000, 1_000_000, 10_000_000)
    return [
      {
        title: `views polled, ${backlog.toLocaleString('en')} tasks of a lower priority waiting`,
        together: true,
        cells: contenders
          .filter(({ kind }) => kind === 'own')
          .flatMap((contender) =>
            ['nobody looks', 'all views every second'].map((looking) => ({
              contender,
              setting: looking,
              parameters: { looking, backlog, seconds: bySize(size, 3, 30, 60) },
            })),
          ),
      },
    ].filter(({ cells }) => cells.length > 0)
  },
  async measure(bench, parameters) {
    const backlog = numberOf(parameters, 'backlog')
    const seconds = numberOf(parameters, 'seconds')
    // Numbers from 2^26 on: the backlog's tasks are not among those that are counted.
    const first = 2 ** 26
    await seed(bench, first, first + backlog, (n) => ({ payload: benchTask(n), priority: -3 }))
    await settleDown(bench)
    const workers = await startWorkers(bench.contender.name, bench.url, {
      processes: 1,
      slots: 1,
      concurrency: 100,
    })
    await bench.meet()
    await workers.go()
    const measured = await startStopwatch(bench.client, bench.postmaster, workers.pids)
    const stop = parameters['looking'] === 'nobody looks' ? null : poll(bench)
    const loaded = await saturate(bench, workers, { first: 0, seconds, backlog: 10_000 })
    const looked = await stop?.()
    const spent = await measured()
    await stopBusy(bench, workers)
    const figures: Figures = { tasksPerSecond: loaded.ended / loaded.seconds }
    if (looked !== undefined) {
      const { took, cpuSeconds } = looked
      figures['lookingCpuShare'] = (100 * cpuSeconds) / (spent.postgresCpuSeconds + spent.nodeCpuSeconds)
      const medians = [...took].map(
        ([name, ms]) => [name, ms.toSorted((a, b) => a - b)[ms.length >> 1]!] as const,
      )
      for (const [name, ms] of medians) figures[`${name}Ms`] = ms
      for (const [name, ms] of took) figures[`${name}SlowestMs`] = Math.max(...ms)
      figures['slowestViewMedianMs'] = Math.max(...medians.map(([, ms]) => ms))
      figures['slowestMs'] = Math.max(...[...took.values()].flat())
    }
    return { figures }
  },
}
