/**
 * W4: does a claim cost more when more tasks wait behind it? A part of the backlog is worked off, the rest stays.
 *
 * The claiming statement's time and buffers come from pg_stat_statements, which is on for this workload's databases only.
 */
import { costs, seed, settleDown, stopBusy } from '../drain.ts'
import { countSoFar, startStopwatch } from '../stopwatch.ts'
import { bySize, numberOf, type Workload } from '../workload.ts'
import { startWorkers } from '../workers.ts'

/** Above this many a slow system takes minutes to be filled. */
function mostBacklog(mostTasks: number): number {
  return mostTasks >= 1_000_000 ? mostTasks : mostTasks * 3
}

export const workload: Workload = {
  id: 'W4',
  name: 'backlog',
  about: 'claim time and buffers with 1,000 to 10,000,000 tasks waiting',
  shown: [
    { figure: 'claimMs', unit: 'ms per claim', better: 'less' },
    { figure: 'buffersPerClaim', unit: 'buffers per claim', better: 'less' },
    { figure: 'buffersPerTask', unit: 'buffers/task', better: 'less' },
    { figure: 'tasksPerSecond', unit: 'tasks/s', better: 'more' },
    { figure: 'postgresCpuSecondsPer1000', unit: 's Postgres CPU/1,000', better: 'less' },
    { figure: 'nodeCpuSecondsPer1000', unit: 's Node CPU/1,000', better: 'less' },
    { figure: 'walBytesPerTask', unit: 'WAL bytes/task', better: 'less' },
  ],
  plan({ size, contenders }) {
    const depths = bySize(
      size,
      [1000, 3000],
      [1000, 10_000, 100_000, 1_000_000],
      [1000, 10_000, 100_000, 1_000_000, 10_000_000],
    )
    return [
      {
        title: 'work with a backlog behind it, 100 handlers at once',
        ...(size === 'full' ? { repeats: 3 } : {}),
        cells: contenders
          .filter(({ name }) => name !== 'raw')
          .flatMap((contender) =>
            depths
              .filter((backlog) => backlog <= mostBacklog(contender.mostTasks))
              .map((backlog) => ({
                contender,
                setting: `${backlog.toLocaleString('en')} waiting`,
                // The same number of tasks at every depth, so that only the depth differs.
                parameters: { backlog, tasks: bySize(size, 300, 1000, 1000), rounds: bySize(size, 1, 5, 5) },
              })),
          ),
      },
    ]
  },
  async measure(bench, parameters) {
    const backlog = numberOf(parameters, 'backlog')
    const perRound = numberOf(parameters, 'tasks')
    const { client } = bench
    await client.query('create extension if not exists pg_stat_statements')
    await client.query(
      `alter database ${new URL(bench.url).pathname.slice(1)} set pg_stat_statements.track = 'top'`,
    )
    await seed(bench, 0, backlog)
    await settleDown(bench)
    const workers = await startWorkers(bench.contender.name, bench.url, {
      processes: 1,
      slots: 1,
      concurrency: 100,
    })
    const before = await countSoFar(client)
    await client.query('select pg_stat_statements_reset()')
    const stop = await startStopwatch(client, bench.postmaster, workers.pids)
    await workers.go()
    // What is worked off is put back behind the rest, so that the backlog keeps its depth.
    let next = backlog
    for (let round = 1; round <= numberOf(parameters, 'rounds'); round++) {
      const target = perRound * round
      await workers.until(() => workers.ended >= Math.min(target, next))
      await seed(bench, next, next + perRound)
      next += perRound
    }
    const tasks = workers.ended
    const spent = await stop()
    const { rows } = await client.query<{ calls: number; ms: number; buffers: number }>(
      `select coalesce(sum(calls), 0)::float8 as calls, coalesce(sum(total_exec_time), 0)::float8 as ms,
        coalesce(sum(shared_blks_hit + shared_blks_read), 0)::float8 as buffers
       from pg_stat_statements where lower(query) like $1 and dbid = (select oid from pg_database where datname = current_database())`,
      [bench.claimStatement],
    )
    const claims = rows[0]!
    const ran = await stopBusy(bench, workers)
    const after = await countSoFar(client)
    if (claims.calls === 0) throw new Error(`${bench.contender.name}: its claiming statement was not found`)
    return {
      figures: {
        backlog,
        tasksPerSecond: tasks / spent.seconds,
        claimMs: claims.ms / claims.calls,
        buffersPerClaim: claims.buffers / claims.calls,
        buffersPerTask: (after.buffers - before.buffers) / ran,
        claims: claims.calls,
        ...costs(spent, tasks),
      },
    }
  },
}
