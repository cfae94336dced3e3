/**
 * Leasehold's side of each workload, through its public API, in this process.
 *
 * `node bench/systems/leasehold.ts WORKLOAD URL PARAMETERS` prints one line of JSON figures.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { createStages, leadsMigrations, runStatus, startRun } from '@leasehold/pipeline-leads'
import { migrate, openPool } from '@leasehold/postgres'
import {
  defineStage,
  pauseStage,
  registerStage,
  resumeStage,
  runProgress,
  submitMany,
} from '@leasehold/queue'
import { type Runner, type RunnerOptions, startRunner } from '@leasehold/runner'
import { Client } from 'pg'
import { z } from 'zod'
import { startClock } from '../clock.ts'
import { median, percentile } from '../measure.ts'

const [workload, url, text] = process.argv.slice(2) as [string, string, string]
const p = JSON.parse(text) as Record<string, number>
const silent = {
  debug() {},
  info() {},
  warn() {},
  error(facts: object, message: string) {
    console.error(message, facts)
  },
}

await migrate(url)
const client = new Client({ connectionString: url })
await client.connect()
const stageOf = (concurrency: number, run: () => Promise<void>) =>
  defineStage({ name: 'bench', payload: z.unknown(), concurrency, run })

function start(
  concurrency: number,
  run: () => Promise<void>,
  more: Partial<RunnerOptions> = {},
): Promise<Runner> {
  const stages = [stageOf(concurrency, run)]
  return startRunner({ connectionString: url, stages, slot: 'bench@1', log: silent, ...more })
}

/** 160-byte payloads, inserted by the server in chunks. */
async function insertTasks(count: number): Promise<void> {
  await registerStage(
    client,
    stageOf(1, async () => {}),
  )
  for (let left = count; left > 0; left -= 20_000) {
    await client.query(
      `insert into leasehold.tasks (stage, payload)
       select 'bench', jsonb_build_object('n', g, 'pad', repeat('x', 120)) from generate_series(1, $1::int) g`,
      [Math.min(left, 20_000)],
    )
  }
  await client.query('analyze')
  await client.query('checkpoint')
}

async function settled(runner: Runner, count: number): Promise<void> {
  while (runner.counts.settled < count) await sleep(5)
}

async function drain(): Promise<object> {
  await insertTasks(p['tasks']!)
  const stop = await startClock(client)
  const runner = await start(p['concurrency']!, async () => {})
  await settled(runner, p['tasks']!)
  const stretch = await stop()
  await runner.drain()
  const { rows } = await client.query<{ n: string }>(
    `select count(*) as n from leasehold.attempts where final and outcome = 'done'`,
  )
  if (Number(rows[0]!.n) !== p['tasks']) throw new Error(`only ${rows[0]!.n} tasks are done`)
  return {
    tasksPerSecond: p['tasks'] / stretch.seconds,
    nodeMicrosPerTask: stretch.cpuMicros / p['tasks'],
    walBytesPerTask: stretch.walBytes / p['tasks'],
  }
}

async function latency(): Promise<object> {
  let entered: (() => void) | null = null
  const runner = await start(10, async () => entered?.())
  await sleep(1000)
  const samples: number[] = []
  for (let i = 0; i < p['samples']!; i++) {
    const reached = new Promise<void>((resolve) => (entered = resolve))
    const sentAt = performance.now()
    await client.query(`insert into leasehold.tasks (stage, payload) values ('bench', '{}')`)
    await reached
    samples.push(performance.now() - sentAt)
    await sleep(10 + Math.random() * 40)
  }
  await runner.drain()
  return { p50Ms: percentile(samples, 0.5), p99Ms: percentile(samples, 0.99) }
}

async function updatesSoFar(): Promise<{ beats: number; leases: number }> {
  await client.query('select pg_stat_clear_snapshot()')
  const { rows } = await client.query<{ beats: number; leases: number }>(
    `select (select n_tup_upd from pg_stat_user_tables where schemaname = 'leasehold' and relname = 'workers')::int as beats,
      (select n_tup_upd from pg_stat_user_tables where schemaname = 'leasehold' and relname = 'leases')::int as leases`,
  )
  return rows[0]!
}

/** Tasks that wait: what do the beats cost while 10,000 are in flight? */
async function inFlight(): Promise<object> {
  const count = p['tasks']!
  await insertTasks(count)
  const held = Promise.withResolvers<void>()
  const runner = await start(count, () => held.promise, { leaseTtlMs: 3000, beatIntervalMs: 500 })
  while (runner.counts.held < count) await sleep(10)
  await sleep(1500) // statistics arrive late
  const before = await updatesSoFar()
  await sleep(5000)
  const after = await updatesSoFar()
  held.resolve()
  await settled(runner, count)
  await runner.drain()
  return { heartbeatUpdatesIn5s: after.beats - before.beats, leaseUpdatesIn5s: after.leases - before.leases }
}

/** Resident memory, and Node CPU in the long run, while a million tasks go through. */
async function memory(): Promise<object> {
  const runner = await start(500, async () => {})
  await registerStage(
    client,
    stageOf(1, async () => {}),
  )
  const rounds = 10
  const perRound = p['tasks']! / rounds
  const rss: number[] = []
  const cpu: number[] = []
  for (let round = 1; round <= rounds; round++) {
    await pauseStage(client, 'bench')
    await insertTasks(perRound)
    const used = process.cpuUsage()
    await resumeStage(client, 'bench')
    await settled(runner, perRound * round)
    const { user, system } = process.cpuUsage(used)
    cpu.push((user + system) / perRound)
    globalThis.gc?.()
    rss.push(process.memoryUsage.rss() / 1024 / 1024)
  }
  await runner.drain()
  return {
    rssAfterFirstTenthMib: rss[0]!,
    rssAtEndMib: rss.at(-1)!,
    rssMostMib: Math.max(...rss),
    nodeMicrosPerTask: median(cpu.slice(1)),
  }
}

/** The lead pipeline on a made-up directory, all stages, without a network: every name is a reserved one. */
async function leads(): Promise<object> {
  await migrate(url, { set: leadsMigrations })
  const count = p['companies']!
  const folder = mkdtempSync(join(tmpdir(), 'leasehold-bench-leads-'))
  const source = join(folder, 'companies.csv')
  const lines = [
    'company,website,city,state,country,industry,description,employees,contact name,contact title',
  ]
  for (let n = 0; n < count; n++) {
    lines.push(
      `Company ${n} Property Management,https://company-${n}.example/,Austin,TX,US,Residential property management,` +
        `"Full-service management of ${n % 900} apartments. Owners log in to AppFolio.",${20 + (n % 80)},Quinn Mockford,Owner`,
    )
  }
  writeFileSync(source, lines.join('\n'))
  const pool = openPool({ connectionString: url, applicationName: 'bench leads', max: 10 })
  const stages = createStages({ model: { apiKey: null, baseUrl: null, name: null } })
  const runner = await startRunner({ connectionString: url, stages, slot: 'bench@leads', log: silent })
  const started = performance.now()
  const { runId } = await startRun(pool, { target: count, source })
  const open = async () => (await runProgress(pool, runId)).reduce((sum, stage) => sum + stage.open, 0)
  while ((await open()) > 0) await sleep(100)
  const seconds = (performance.now() - started) / 1000
  const status = await runStatus(pool, runId)
  await runner.drain()
  await pool.end()
  rmSync(folder, { recursive: true, force: true })
  return { seconds, companiesResearched: status.researched, leads: status.leads }
}

async function submitBulk(): Promise<object> {
  const pool = openPool({ connectionString: url, applicationName: 'bench' })
  await registerStage(
    client,
    stageOf(1, async () => {}),
  )
  const items = Array.from({ length: p['tasks']! }, (_, n) => ({ payload: { n, pad: 'x'.repeat(120) } }))
  const started = performance.now()
  await submitMany(pool, 'bench', items)
  const seconds = (performance.now() - started) / 1000
  await pool.end()
  return { rowsPerSecond: p['tasks']! / seconds }
}

const workloads: Record<string, () => Promise<object>> = {
  drain,
  latency,
  inFlight,
  memory,
  leads,
  submitBulk,
}
console.log(JSON.stringify(await workloads[workload]!()))
await client.end()
