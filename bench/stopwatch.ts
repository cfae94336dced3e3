/**
 * What a stretch of work costs: time, CPU of the worker processes and of PostgreSQL apart, WAL, commits, buffers.
 *
 * CPU is read from /proc: for PostgreSQL the postmaster with everything it has reaped plus its living children, so no
 * process is missed; ticks are 10 ms. Commits and buffers come from the cumulative statistics, which sessions report up
 * to a second late: they are read once the workers have left.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Client } from 'pg'

/** Totals of a stretch. */
export interface Spent {
  readonly seconds: number
  readonly nodeCpuSeconds: number
  readonly postgresCpuSeconds: number
  readonly walBytes: number
}

/** Totals of the whole database between two looks, with their cost of coming late. */
export interface Counted {
  readonly commits: number
  readonly buffers: number
  readonly deadRows: number
}

const ticksPerSecond = 100

interface ProcessTimes {
  readonly pid: number
  readonly parent: number
  readonly own: number
  readonly reaped: number
}

/** utime + stime, and the same of reaped children, in s. Null when the process is gone. */
function timesOf(pid: number | string): ProcessTimes | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
    const at = (field: number) => Number(fields[field - 3]) // numbered as in proc(5), from the third on
    return {
      pid: Number(pid),
      parent: at(4),
      own: (at(14) + at(15)) / ticksPerSecond,
      reaped: (at(16) + at(17)) / ticksPerSecond,
    }
  } catch {
    return null
  }
}

function postgresCpu(postmaster: number): number {
  let sum = 0
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    const times = timesOf(name)
    if (times === null) continue
    if (times.pid === postmaster) sum += times.own + times.reaped
    else if (times.parent === postmaster) sum += times.own
  }
  return sum
}

/** What a process has used of the CPU so far, s; 0 when it is gone. */
export function cpuOf(pid: number): number {
  return timesOf(pid)?.own ?? 0
}

/** Peak resident memory of a process, MiB; 0 when it is gone. */
export function peakMib(pid: number): number {
  try {
    const found = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))
    return found === null ? 0 : Number(found[1]) / 1024
  } catch {
    return 0
  }
}

/** Resident memory of a process now, MiB; 0 when it is gone. */
export function residentMib(pid: number): number {
  try {
    const found = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))
    return found === null ? 0 : Number(found[1]) / 1024
  } catch {
    return 0
  }
}

/** Starts measuring; the answer ends it. `nodePids` are the processes of the system under test. */
export async function startStopwatch(
  client: Client,
  postmaster: number,
  nodePids: readonly number[],
): Promise<() => Promise<Spent>> {
  const lsn = async () =>
    (await client.query<{ lsn: string }>('select pg_current_wal_insert_lsn()::text as lsn')).rows[0]!.lsn
  const nodeCpu = () => nodePids.reduce((sum, pid) => sum + cpuOf(pid), 0)
  const before = { lsn: await lsn(), postgres: postgresCpu(postmaster), node: nodeCpu() }
  const started = performance.now()
  return async () => {
    const seconds = (performance.now() - started) / 1000
    const nodeCpuSeconds = nodeCpu() - before.node
    const postgresCpuSeconds = postgresCpu(postmaster) - before.postgres
    const { rows } = await client.query<{ bytes: number }>(
      'select pg_wal_lsn_diff($1, $2)::float8 as bytes',
      [await lsn(), before.lsn],
    )
    return { seconds, nodeCpuSeconds, postgresCpuSeconds, walBytes: rows[0]!.bytes }
  }
}

/** Totals of the database so far, once every session that has ended has reported. */
export async function countSoFar(client: Client): Promise<Counted> {
  await sleep(1100)
  await client.query('select pg_stat_clear_snapshot()')
  const { rows } = await client.query<Counted>(
    `select xact_commit::float8 as commits, (blks_hit + blks_read)::float8 as buffers,
      (select coalesce(sum(n_dead_tup), 0)::float8 from pg_stat_user_tables) as "deadRows"
     from pg_stat_database where datname = current_database()`,
  )
  return rows[0]!
}
