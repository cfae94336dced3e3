/**
 * What this server can do for Leasehold: round trip, commit, submission, drain, start latency. One process, no-op handlers.
 *
 * Every part is bounded in number and in time, and checks `stop` between its steps. Counts what is durably settled.
 */
import { migrate, openPool } from '@leasehold/postgres'
import { defineStage, registerStage, submit, submitMany } from '@leasehold/queue'
import { type Runner, startRunner } from '@leasehold/runner'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Pool } from 'pg'
import { z } from 'zod'

/** How much is measured. */
export interface ServerBenchOptions {
  readonly tasks: number
  readonly concurrency: number
  readonly stop: AbortSignal
  /** Told what begins. */
  readonly progress: (what: string) => void
}

/** The figures; times are medians unless they say otherwise. */
export interface ServerFigures {
  readonly server: Readonly<Record<string, string>>
  readonly tasks: number
  readonly concurrency: number
  readonly roundTripMs: number
  readonly commitMs: number
  readonly submitManyRowsPerSecond: number
  readonly tasksPerSecond: number
  readonly nodeMicrosPerTask: number
  /** Of the whole server: other traffic is in it. */
  readonly walBytesPerTask: number
  readonly startLatencyP50Ms: number
  readonly startLatencyP99Ms: number
}

const samples = 100
const partLimitMs = 120_000
const shown = ['server_version', 'fsync', 'synchronous_commit', 'full_page_writes', 'shared_buffers']
const payload = { pad: 'x'.repeat(120) }

/** Migrates the empty database of this address and measures on it. Throws when it is stopped or takes too long. */
export async function measureServer(url: string, options: ServerBenchOptions): Promise<ServerFigures> {
  const { tasks, concurrency, stop, progress } = options
  progress('migrating the scratch database')
  await migrate(url)
  const pool = openPool({ connectionString: url, applicationName: 'leasehold bench', max: 4 })
  let entered: (() => void) | null = null
  const stage = defineStage({
    name: 'bench',
    payload: z.unknown(),
    concurrency,
    run: () => Promise.resolve(entered?.()),
  })
  let runner: Runner | null = null
  try {
    await registerStage(pool, stage)
    progress('round trips and commits')
    const roundTripMs = median(await timed(stop, () => pool.query('select 1')))
    const commits = await timed(stop, () => submit(pool, stage, payload))
    progress(`submitting ${tasks} tasks`)
    const submitManyRowsPerSecond = await submitAll(pool, tasks, stop)
    await pool.query('analyze')
    progress(`working them off, ${concurrency} at once`)
    const all = tasks + commits.length
    const before = { lsn: await walPosition(pool), cpu: process.cpuUsage(), at: performance.now() }
    const started = (runner = await startRunner({
      connectionString: url,
      stages: [stage],
      slot: 'bench@1',
      log: silent,
    }))
    await until(() => started.counts.settled >= all, stop)
    const seconds = (performance.now() - before.at) / 1000
    const { user, system } = process.cpuUsage(before.cpu)
    const walBytes = await walSince(pool, before.lsn)
    progress('start latency')
    const latencies = await timed(stop, async () => {
      const reached = new Promise<void>((resolve) => (entered = resolve))
      await submit(pool, stage, payload)
      await reached
    })
    return {
      server: await serverFacts(pool),
      tasks,
      concurrency,
      roundTripMs,
      commitMs: median(commits),
      submitManyRowsPerSecond,
      tasksPerSecond: all / seconds,
      nodeMicrosPerTask: (user + system) / all,
      walBytesPerTask: walBytes / all,
      startLatencyP50Ms: median(latencies),
      startLatencyP99Ms: latencies.toSorted((a, b) => a - b)[Math.floor(latencies.length * 0.99)]!,
    }
  } finally {
    await runner?.drain()
    await pool.end()
  }
}

const silent = { debug() {}, info() {}, warn() {}, error() {} }

/** How long each of `samples` takes, in ms. */
async function timed(stop: AbortSignal, work: () => Promise<unknown>): Promise<number[]> {
  const took: number[] = []
  const deadline = performance.now() + partLimitMs
  while (took.length < samples && performance.now() < deadline) {
    stop.throwIfAborted()
    const began = performance.now()
    await work()
    took.push(performance.now() - began)
  }
  return took
}

async function submitAll(pool: Pool, tasks: number, stop: AbortSignal): Promise<number> {
  const began = performance.now()
  for (let left = tasks; left > 0; left -= 5000) {
    stop.throwIfAborted()
    await submitMany(
      pool,
      'bench',
      Array.from({ length: Math.min(left, 5000) }, () => ({ payload })),
    )
  }
  return tasks / ((performance.now() - began) / 1000)
}

async function until(reached: () => boolean, stop: AbortSignal): Promise<void> {
  const deadline = performance.now() + partLimitMs
  while (!reached()) {
    stop.throwIfAborted()
    if (performance.now() > deadline)
      throw new Error(`the tasks were not worked off within ${partLimitMs / 1000} s; try fewer with --tasks`)
    await sleep(5)
  }
}

async function walPosition(pool: Pool): Promise<string> {
  const { rows } = await pool.query<{ lsn: string }>('select pg_current_wal_insert_lsn()::text as lsn')
  return rows[0]!.lsn
}

async function walSince(pool: Pool, lsn: string): Promise<number> {
  const { rows } = await pool.query<{ bytes: number }>(
    'select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1)::float8 as bytes',
    [lsn],
  )
  return rows[0]!.bytes
}

async function serverFacts(pool: Pool): Promise<Record<string, string>> {
  const { rows } = await pool.query<{ name: string; value: string }>(
    'select name, current_setting(name) as value from unnest($1::text[]) as name',
    [shown],
  )
  return Object.fromEntries(rows.map(({ name, value }) => [name, value]))
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[sorted.length >> 1]!
}
