/**
 * W8: what do 10,000 handlers cost that only wait, for a model or for a browser?
 *
 * One process holds them all for some seconds; what is measured is how soon all of them run, and what the server and the
 * process spend while nothing happens: renewing leases, locks or nothing at all.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { assertEnded, finished, seed, settleDown } from '../drain.ts'
import { residentMib, startStopwatch } from '../stopwatch.ts'
import { benchTask } from '../system.ts'
import { bySize, numberOf, type Workload } from '../workload.ts'
import { startWorkers } from '../workers.ts'

export const workload: Workload = {
  id: 'W8',
  name: 'waiting',
  about: '10,000 handlers that wait at the same time',
  shown: [
    { figure: 'secondsUntilAllRun', unit: 's until all run', better: 'less' },
    { figure: 'postgresCpuPercent', unit: '% Postgres CPU while they wait', better: 'less' },
    { figure: 'nodeCpuPercent', unit: '% Node CPU while they wait', better: 'less' },
    { figure: 'walBytesPerSecond', unit: 'WAL bytes/s while they wait', better: 'less' },
    { figure: 'memoryMib', unit: 'MiB Node', better: 'less' },
    { figure: 'secondsUntilAllEnded', unit: 's until all have ended', better: 'less' },
  ],
  plan({ size, contenders }) {
    const tasks = bySize(size, 300, 10_000, 10_000)
    return [
      {
        title: `${tasks.toLocaleString('en')} handlers wait`,
        cells: contenders
          .filter(({ name, kind }) => name !== 'graphile' && kind !== 'control')
          .map((contender) => ({
            contender,
            parameters: { tasks, seconds: bySize(size, 2, 30, 120) },
          })),
      },
    ]
  },
  async measure(bench, parameters) {
    const tasks = numberOf(parameters, 'tasks')
    const seconds = numberOf(parameters, 'seconds')
    await seed(bench, 0, tasks, (n) => ({ payload: benchTask(n, { ms: -1 }) }))
    await settleDown(bench)
    const workers = await startWorkers(bench.contender.name, bench.url, {
      processes: 1,
      slots: 1,
      concurrency: tasks,
    })
    const began = performance.now()
    await workers.go()
    await workers.until(() => workers.entered >= tasks)
    const secondsUntilAllRun = (performance.now() - began) / 1000
    await sleep(1000)
    const stop = await startStopwatch(bench.client, bench.postmaster, workers.pids)
    await sleep(seconds * 1000)
    const spent = await stop()
    const memoryMib = residentMib(workers.pids[0]!)
    const released = performance.now()
    workers.release()
    await workers.until(() => workers.ended >= tasks)
    await finished(bench)
    const secondsUntilAllEnded = (performance.now() - released) / 1000
    await workers.stop(tasks)
    await assertEnded(bench, tasks)
    return {
      figures: {
        tasks,
        secondsUntilAllRun,
        postgresCpuPercent: (spent.postgresCpuSeconds / spent.seconds) * 100,
        nodeCpuPercent: (spent.nodeCpuSeconds / spent.seconds) * 100,
        walBytesPerSecond: spent.walBytes / spent.seconds,
        memoryMib,
        secondsUntilAllEnded,
      },
    }
  },
}
