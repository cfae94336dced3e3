/**
 * W10: do disk and memory stay flat when history is dropped as fast as it grows?
 *
 * Leasehold only. A steady open-loop rate; ranges are rotated and dropped as the monitor does it, only much more often
 * than in production, so that a short soak goes through many of them.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { openPool } from '@leasehold/postgres'
import { duties, setRetention, takeTurn } from '@leasehold/queue'
import type { Pool } from 'pg'
import { benchTask } from '../system.ts'
import { openLoop } from '../load.ts'
import { percentileMs } from '../histogram.ts'
import { residentMib } from '../stopwatch.ts'
import { type Bench, bySize, numberOf, type Workload } from '../workload.ts'
import { startWorkers, type Workers } from '../workers.ts'

/** Settings and turns of retention, as the monitor has them; what gives way to somebody is done by the next turn. */
const turns = duties.filter(({ name }) => name === 'partitions' || name === 'retention' || name === 'vacuum')

/** One turn of each duty; answers how many ranges were dropped. */
async function retain(pool: Pool): Promise<number> {
  let dropped = 0
  for (const duty of turns) {
    const did = await takeTurn(pool, duty, 'bench')
    dropped += Number(did?.['rangesDropped'] ?? 0)
  }
  return dropped
}

async function sizes({ client }: Bench): Promise<{ databaseMib: number; deadRows: number }> {
  const { rows } = await client.query<{ databaseMib: number; deadRows: number }>(
    `select pg_database_size(current_database())::float8 / 1048576 as "databaseMib",
      (select coalesce(sum(n_dead_tup), 0)::float8 from pg_stat_user_tables where schemaname = 'leasehold') as "deadRows"`,
  )
  return rows[0]!
}

interface Watched {
  readonly databaseMib: [number, number][]
  readonly nodeMib: [number, number][]
  readonly deadRows: [number, number][]
  dropped: number
}

/** Looks and retains until `over`. */
async function watch(
  bench: Bench,
  workers: Workers,
  { everySeconds, keepSeconds, over }: { everySeconds: number; keepSeconds: number; over: () => boolean },
): Promise<Watched> {
  const pool = openPool({ connectionString: bench.url, applicationName: 'bench retention', max: 2 })
  await setRetention(pool, { keepTasksMs: keepSeconds * 1000, rotateEveryMs: (keepSeconds * 1000) / 6 })
  const seen: Watched = { databaseMib: [], nodeMib: [], deadRows: [], dropped: 0 }
  const began = performance.now()
  while (!over()) {
    await sleep(everySeconds * 1000)
    seen.dropped += await retain(pool)
    const at = Math.round((performance.now() - began) / 1000)
    const { databaseMib, deadRows } = await sizes(bench)
    seen.databaseMib.push([at, databaseMib])
    seen.deadRows.push([at, deadRows])
    seen.nodeMib.push([at, residentMib(workers.pids[0]!)])
  }
  await pool.end()
  return seen
}

/** The value of the last quarter over that of the second one: 1 is flat. The first quarter is still filling up. */
function growth(course: readonly (readonly [number, number])[]): number {
  const quarter = Math.max(1, Math.floor(course.length / 4))
  const mean = (part: typeof course) =>
    part.reduce((sum, [, value]) => sum + value, 0) / Math.max(1, part.length)
  const early = mean(course.slice(quarter, quarter * 2))
  return early === 0 ? 1 : mean(course.slice(-quarter)) / early
}

export const workload: Workload = {
  id: 'W10',
  name: 'soak',
  about: 'a long steady load with retention by partition drop: disk, memory, dead rows',
  shown: [
    { figure: 'tasksPerSecond', unit: 'tasks/s', better: 'more' },
    { figure: 'p50Ms', unit: 'ms p50', better: 'less' },
    { figure: 'p99Ms', unit: 'ms p99', better: 'less' },
    { figure: 'databaseGrowth', unit: '× disk, last to second quarter', better: 'less' },
    { figure: 'nodeGrowth', unit: '× memory, last to second quarter', better: 'less' },
    { figure: 'mostDeadRows', unit: 'dead rows, most', better: 'less' },
    { figure: 'droppedRanges', unit: 'ranges dropped', better: 'more' },
  ],
  plan({ size, contenders }) {
    const seconds = bySize(size, 6, 240, 900)
    return [
      {
        title: `${seconds} s at a steady rate, retention on`,
        repeats: 1,
        cells: contenders
          .filter(({ kind }) => kind === 'own')
          .map((contender) => ({
            contender,
            parameters: {
              seconds,
              rate: bySize(size, 500, 10_000, 10_000),
              everySeconds: bySize(size, 1, 5, 10),
              keepSeconds: 60,
            },
          })),
      },
    ].filter(({ cells }) => cells.length > 0)
  },
  async measure(bench, parameters) {
    const workers = await startWorkers(bench.contender.name, bench.url, {
      processes: 1,
      slots: 1,
      concurrency: 500,
    })
    await workers.go()
    await bench.system.submit([{ payload: benchTask(0) }])
    let over = false
    const watching = watch(bench, workers, {
      everySeconds: numberOf(parameters, 'everySeconds'),
      keepSeconds: numberOf(parameters, 'keepSeconds'),
      over: () => over,
    })
    const loaded = await openLoop(bench, workers, {
      first: 1,
      seconds: numberOf(parameters, 'seconds'),
      rate: numberOf(parameters, 'rate'),
      random: false,
    })
    await workers.until(() => workers.ended >= loaded.next)
    over = true
    const seen = await watching
    const latency = await workers.latency()
    await workers.stop(loaded.next)
    return {
      figures: {
        tasksPerSecond: loaded.ended / loaded.seconds,
        p50Ms: percentileMs(latency, 0.5),
        p99Ms: percentileMs(latency, 0.99),
        databaseGrowth: growth(seen.databaseMib),
        nodeGrowth: growth(seen.nodeMib),
        mostDeadRows: Math.max(...seen.deadRows.map(([, value]) => value)),
        droppedRanges: seen.dropped,
      },
      series: {
        rate: loaded.course,
        databaseMib: seen.databaseMib,
        nodeMib: seen.nodeMib,
        deadRows: seen.deadRows,
      },
    }
  },
}
