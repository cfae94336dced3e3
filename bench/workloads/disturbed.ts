/**
 * W5: what is left of the rate while another session holds an old snapshot, or sits idle in a transaction that has written?
 *
 * The queue is kept busy for the whole time with about 20,000 tasks waiting. Every SKIP LOCKED queue walks the dead
 * entries that the other session keeps alive; the course over time shows it. The undisturbed rate is measured at the same
 * time, on a server of its own: a transaction that wrote holds back the other databases of its server too.
 */
import { statfsSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { Client } from 'pg'
import { costs, stopBusy } from '../drain.ts'
import { saturate } from '../load.ts'
import { countSoFar, startStopwatch } from '../stopwatch.ts'
import { bySize, numberOf, type Workload } from '../workload.ts'
import { startWorkers } from '../workers.ts'

/** What the other session does. It is open from before the first task until after the last. */
const disturbances: Record<string, readonly string[]> = {
  'nothing held': [],
  'old snapshot held': ['begin isolation level repeatable read', 'select count(*) from pg_class'],
  'idle writer held': [
    'create table if not exists public.bench_elsewhere (id integer)',
    'begin',
    'insert into public.bench_elsewhere values (1)',
  ],
}

const leastFreeBytes = 8 * 2 ** 30

function assertDiskLeft(): void {
  const { bavail, bsize } = statfsSync(tmpdir())
  if (bavail * bsize < leastFreeBytes)
    throw new Error('less than 8 GiB of disk are left: run it for a shorter time')
}

function mean(course: readonly (readonly [number, number])[]): number {
  return course.reduce((sum, [, value]) => sum + value, 0) / Math.max(1, course.length)
}

export const workload: Workload = {
  id: 'W5',
  name: 'disturbed',
  about: 'the rate while an old snapshot or an idle writer transaction is held',
  shown: [
    { figure: 'tasksPerSecond', unit: 'tasks/s, whole run', better: 'more' },
    { figure: 'tasksPerSecondOfFirst', unit: 'of its undisturbed rate', better: 'more' },
    { figure: 'lastTenthOfFirst', unit: 'the same, last tenth', better: 'more' },
    { figure: 'lastTenth', unit: 'tasks/s, last tenth', better: 'more' },
    { figure: 'cpuSecondsPer1000', unit: 's CPU/1,000', better: 'less' },
    { figure: 'cpuSecondsPer1000OfFirst', unit: 'of its undisturbed CPU/task', better: 'less' },
    { figure: 'postgresCpuSecondsPer1000', unit: 's Postgres CPU/1,000', better: 'less' },
    { figure: 'nodeCpuSecondsPer1000', unit: 's Node CPU/1,000', better: 'less' },
    { figure: 'walBytesPerTask', unit: 'WAL bytes/task', better: 'less' },
    { figure: 'deadRows', unit: 'dead rows at the end', better: 'less' },
  ],
  plan: ({ size, contenders }) => [
    {
      title: `kept busy for ${bySize(size, '2 s', '60 s', '30 min')}, 500 handlers at once, each system undisturbed and disturbed at the same time`,
      together: true,
      ...(size === 'full' ? { repeats: 1 } : {}),
      cells: contenders
        .filter(({ name }) => name !== 'raw')
        .flatMap((contender) =>
          Object.keys(disturbances).map((held) => ({
            contender,
            setting: held,
            parameters: {
              held,
              seconds: bySize(size, 2, 60, 1800),
              backlog: bySize(size, 2000, 20_000, 20_000),
            },
          })),
        ),
    },
  ],
  async measure(bench, parameters) {
    const other = new Client({ connectionString: bench.url })
    await other.connect()
    for (const statement of disturbances[String(parameters['held'])]!) await other.query(statement)
    const workers = await startWorkers(bench.contender.name, bench.url, {
      processes: 1,
      slots: 1,
      concurrency: 500,
    })
    await bench.meet()
    await workers.go()
    const guard = setInterval(assertDiskLeft, 10_000)
    const stop = await startStopwatch(bench.client, bench.postmaster, workers.pids)
    const loaded = await saturate(bench, workers, {
      first: 0,
      seconds: numberOf(parameters, 'seconds'),
      backlog: Math.min(numberOf(parameters, 'backlog'), bench.contender.mostTasks),
    })
    const spent = await stop()
    clearInterval(guard)
    await stopBusy(bench, workers)
    const { deadRows } = await countSoFar(bench.client)
    await other.end()
    const tenth = Math.max(1, Math.floor(loaded.course.length / 10))
    return {
      figures: {
        tasksPerSecond: loaded.ended / loaded.seconds,
        lastTenth: mean(loaded.course.slice(-tenth)),
        deadRows,
        ...costs(spent, Math.max(1, loaded.ended)),
      },
      series: { rate: loaded.course },
    }
  },
}
