/**
 * W2: how fast are tasks taken? Leasehold by every way in, each beside the same statement on an identical table without
 * the trigger; the peers one at a time and in their batches.
 *
 * The bare table has the columns, checks, defaults, indexes and partitions of leasehold.tasks and nothing that acts on
 * an insert: what is missing to it is what the trigger costs.
 */
import { Client } from 'pg'
import { openPool } from '@leasehold/postgres'
import { submit as submitOne, submitMany } from '@leasehold/queue'
import type { Contender } from '../contenders.ts'
import { costs, seed } from '../drain.ts'
import { startStopwatch } from '../stopwatch.ts'
import { benchTask } from '../system.ts'
import { type Bench, bySize, type Comparison, numberOf, type Workload } from '../workload.ts'
import { copyIn } from './copy-in.ts'

const payloadOf = (n: number): string => JSON.stringify(benchTask(n))
const connections = 4

/** Calls `work` for each number below `count`, `connections` at a time, each with its own client. */
async function onClients(
  url: string,
  count: number,
  work: (client: Client, n: number) => Promise<unknown>,
): Promise<void> {
  let next = 0
  await Promise.all(
    Array.from({ length: connections }, async () => {
      const client = new Client({ connectionString: url })
      await client.connect()
      while (next < count) await work(client, next++)
      await client.end()
    }),
  )
}

function insertOne(table: string): (client: Client, n: number) => Promise<unknown> {
  return (client, n) =>
    client.query({
      name: 'one',
      text: `insert into ${table} (stage, payload) values ('bench', $1)`,
      values: [payloadOf(n)],
    })
}

function insertBatch(table: string, size: number): (client: Client, n: number) => Promise<unknown> {
  const rows = `[${Array.from({ length: size }, (_, n) => payloadOf(n)).join(',')}]`
  return (client) =>
    client.query({
      name: 'batch',
      text: `insert into ${table} (stage, payload) select 'bench', value from json_array_elements($1::json)`,
      values: [rows],
    })
}

function copy(table: string, size: number): (client: Client) => Promise<void> {
  const lines = Array.from({ length: size }, (_, n) => `bench\t${payloadOf(n)}\n`).join('')
  const chunks = [Buffer.from(lines)]
  return (client) => copyIn(client, `copy ${table} (stage, payload) from stdin`, chunks)
}

const bare = 'bench_bare.tasks'
const own = 'leasehold.tasks'

const noTrigger = ', no trigger'

/** Rows per statement, and what is done with a client for each statement. */
const ways: Record<string, { size: number; make: () => (client: Client, n: number) => Promise<unknown> }> = {
  'single INSERT': { size: 1, make: () => insertOne(own) },
  'single INSERT, no trigger': { size: 1, make: () => insertOne(bare) },
  'INSERT of 100': { size: 100, make: () => insertBatch(own, 100) },
  'INSERT of 100, no trigger': { size: 100, make: () => insertBatch(bare, 100) },
  'INSERT of 1,000': { size: 1000, make: () => insertBatch(own, 1000) },
  'INSERT of 1,000, no trigger': { size: 1000, make: () => insertBatch(bare, 1000) },
  'COPY of 5,000': { size: 5000, make: () => copy(own, 5000) },
  'COPY of 5,000, no trigger': { size: 5000, make: () => copy(bare, 5000) },
  'submit()': { size: 1, make: () => (client, n) => submitOne(client, 'bench', benchTask(n)) },
}

async function makeBareTable(client: Client): Promise<void> {
  await client.query('create schema bench_bare')
  await client.query(`create table ${bare} (like ${own} including all) partition by range (id)`)
  await client.query(`create table bench_bare.tasks_0 partition of ${bare} for values from (0) to (10000000)`)
}

/** Takes `rows` by the way named; answers when all are committed. */
async function take(bench: Bench, way: string, rows: number): Promise<void> {
  const known = ways[way]
  if (known !== undefined) return onClients(bench.url, rows / known.size, known.make())
  if (way === 'submitMany') {
    const pool = openPool({ connectionString: bench.url, applicationName: 'bench', max: 2 })
    await submitMany(
      pool,
      'bench',
      Array.from({ length: rows }, (_, n) => ({ payload: benchTask(n) })),
    )
    return pool.end()
  }
  if (way === 'batches') return seed(bench, 0, rows)
  let next = 0
  const submitter = async () => {
    while (next < rows) await bench.system.submit([{ payload: benchTask(next++) }])
  }
  await Promise.all(Array.from({ length: connections }, submitter))
}

export const workload: Workload = {
  id: 'W2',
  name: 'submit',
  about: 'single INSERTs with and without the trigger, batches, COPY, submit(); the peers’ own ways',
  shown: [
    { figure: 'rowsPerSecond', unit: 'rows/s', better: 'more' },
    { figure: 'walBytesPerTask', unit: 'WAL bytes/row', better: 'less' },
    { figure: 'postgresCpuSecondsPer1000', unit: 's Postgres CPU/1,000', better: 'less' },
  ],
  plan({ size, contenders }) {
    const many = bySize(size, 5000, 100_000, 500_000)
    const few = bySize(size, 200, 10_000, 50_000)
    const rowsOf = (contender: Contender, way: string) =>
      way === 'one at a time' || ways[way]?.size === 1 ? few : Math.min(many, contender.mostTasks)
    const comparison = (title: string, who: readonly Contender[], which: readonly string[]): Comparison => ({
      title,
      cells: who.flatMap((contender) =>
        which.map((way) => ({
          contender,
          parameters: { way, rows: rowsOf(contender, way) },
          setting: way.replace(noTrigger, ''),
          ...(way.endsWith(noTrigger) ? { label: 'the same table without the trigger' } : {}),
        })),
      ),
    })
    const queues = contenders.filter(({ name }) => name !== 'raw' && name !== 'graphile')
    const leasehold = contenders.filter(({ kind }) => kind === 'own')
    return [
      comparison('every way in, 4 connections', leasehold, [...Object.keys(ways), 'submitMany']),
      comparison('one at a time, 4 at once', queues, ['one at a time']),
      comparison('in batches', queues, ['batches']),
    ].filter(({ cells }) => cells.length > 0)
  },
  async measure(bench, parameters) {
    const rows = numberOf(parameters, 'rows')
    const way = String(parameters['way'])
    if (way.endsWith(noTrigger)) await makeBareTable(bench.client)
    await bench.client.query('checkpoint')
    const stop = await startStopwatch(bench.client, bench.postmaster, [process.pid])
    await take(bench, way, rows)
    const spent = await stop()
    return { figures: { tasks: rows, rowsPerSecond: rows / spent.seconds, ...costs(spent, rows) } }
  },
}
