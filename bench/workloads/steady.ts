/**
 * W3: how long does a task wait for its handler, idle and at 50 and 80 % of what the system can take?
 *
 * Open loop, latency from the scheduled send time. Capacity is measured first, with the same producer and worker on the
 * same database, so 50 % means the same strain for a fast and for a slow system; a second pair of figures is at one rate
 * for all, where there is a rate that all can take.
 */
import { assertEnded, costs, finished } from '../drain.ts'
import { percentileMs } from '../histogram.ts'
import { type Loaded, openLoop, saturate } from '../load.ts'
import { peakMib, startStopwatch } from '../stopwatch.ts'
import { bySize, type Figures, numberOf, type Workload } from '../workload.ts'
import { startWorkers } from '../workers.ts'

/** The mean rate without the first quarter, in which the backlog is only being built up. */
function capacityOf({ ended, seconds, course }: Loaded): number {
  const later = course.slice(Math.ceil(course.length / 4))
  if (later.length === 0) return ended / seconds
  return later.reduce((sum, [, rate]) => sum + rate, 0) / later.length
}

export const workload: Workload = {
  id: 'W3',
  name: 'steady',
  about: 'open-loop steady state: start latency idle, at one rate for all, at 50 % and 80 % of capacity',
  shown: [
    { figure: 'capacity', unit: 'tasks/s capacity', better: 'more' },
    ...['idle', 'common', 'half', 'most'].flatMap((load) =>
      [50, 99, 99.9].map((share) => ({
        figure: `${load}P${share}Ms`,
        unit: `ms p${share} ${{ idle: 'idle', common: 'at one rate', half: 'at 50 %', most: 'at 80 %' }[load]}`,
        better: 'less' as const,
      })),
    ),
    { figure: 'postgresCpuSecondsPer1000', unit: 's Postgres CPU/1,000 at one rate', better: 'less' },
    { figure: 'nodeCpuSecondsPer1000', unit: 's Node CPU/1,000 at one rate', better: 'less' },
    { figure: 'walBytesPerTask', unit: 'WAL bytes/task at one rate', better: 'less' },
    { figure: 'memoryMib', unit: 'MiB Node, peak', better: 'less' },
  ],
  plan: ({ size, contenders }) => [
    {
      title: 'start latency in a steady state, 100 handlers at once',
      cells: contenders
        .filter(({ name }) => name !== 'raw')
        .map((contender) => ({
          contender,
          parameters: {
            seconds: bySize(size, 3, 15, 60),
            idleSeconds: bySize(size, 1, 20, 60),
            commonRate: bySize(size, 50, 200, 200),
          },
        })),
    },
  ],
  async measure(bench, parameters) {
    const seconds = numberOf(parameters, 'seconds')
    const workers = await startWorkers(bench.contender.name, bench.url, {
      processes: 1,
      slots: 1,
      concurrency: 100,
    })
    await workers.go()
    let next = 0
    const figures: Figures = {}
    const at = async (load: string, rate: number, forSeconds: number) => {
      await workers.latency()
      ;({ next } = await openLoop(bench, workers, { first: next, seconds: forSeconds, rate, random: true }))
      await workers.until(() => workers.ended >= next)
      const latency = await workers.latency()
      for (const share of [50, 99, 99.9]) figures[`${load}P${share}Ms`] = percentileMs(latency, share / 100)
    }
    // The first tasks load code and fill caches; they are nobody's latency.
    await at('warmUp', 50, 1)
    await at('idle', 20, numberOf(parameters, 'idleSeconds'))
    const stop = await startStopwatch(bench.client, bench.postmaster, workers.pids)
    const before = next
    await at('common', numberOf(parameters, 'commonRate'), seconds)
    Object.assign(figures, costs(await stop(), next - before))
    const full = await saturate(bench, workers, { first: next, seconds, backlog: 4000 })
    next = full.next
    figures['capacity'] = Math.max(1, capacityOf(full))
    await workers.until(() => workers.ended >= next)
    await at('half', figures['capacity'] * 0.5, seconds)
    await at('most', figures['capacity'] * 0.8, seconds)
    await finished(bench)
    figures['memoryMib'] = peakMib(workers.pids[0]!)
    await workers.stop(next)
    await assertEnded(bench, next)
    for (const name of Object.keys(figures)) if (name.startsWith('warmUp')) delete figures[name]
    return { figures }
  },
}
