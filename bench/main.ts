/**
 * `npm run bench`: Leasehold beside graphile-worker on one server in one run, repeats interleaved (ABAB), medians and ratios.
 *
 * Only durable completions count. These machines are noisy: read the ratios, then the medians, and the range last.
 * `--quick` makes everything small, to see that it runs; `--json FILE` keeps every sample.
 */
import { writeFileSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'
import { parseArgs } from 'node:util'
import { type Figures, measure, median } from './measure.ts'
import { type BenchServer, startServer } from './server.ts'

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    json: { type: 'string' },
    repeats: { type: 'string', default: '5' },
    only: { type: 'string' },
  },
})
const quick = options.quick
const repeats = quick ? 1 : Number(options.repeats)

interface Contender {
  readonly label: string
  readonly system: string
  readonly parameters: object
}

interface Comparison {
  readonly name: string
  readonly workload: string
  readonly contenders: readonly Contender[]
  /** Figures to show; the first contender's median is divided by (or by it) the others'. */
  readonly shown: readonly { figure: string; unit: string; better: 'more' | 'less' }[]
}

const tasks = quick ? 5_000 : 200_000
const few = quick ? 300 : 5_000
const drainFigures = [
  { figure: 'tasksPerSecond', unit: 'tasks/s', better: 'more' },
  { figure: 'nodeMicrosPerTask', unit: 'µs Node CPU/task', better: 'less' },
  { figure: 'walBytesPerTask', unit: 'WAL bytes/task', better: 'less' },
] as const
const comparisons: Comparison[] = [
  {
    name: `drain of ${tasks} no-op tasks, one process, 500 handlers at once`,
    workload: 'drain',
    contenders: [
      { label: 'leasehold', system: 'leasehold', parameters: { tasks, concurrency: 500 } },
      {
        label: 'graphile-worker (local queue, batched)',
        system: 'graphile-worker',
        parameters: { tasks, concurrency: 500, localQueue: 1 },
      },
    ],
    shown: drainFigures,
  },
  {
    name: `10 handlers at once, ${few * 4} tasks`,
    workload: 'drain',
    contenders: [
      { label: 'leasehold', system: 'leasehold', parameters: { tasks: few * 4, concurrency: 10 } },
      {
        label: 'graphile-worker (default)',
        system: 'graphile-worker',
        parameters: { tasks: few * 4, concurrency: 10 },
      },
    ],
    shown: drainFigures.slice(0, 1),
  },
  {
    name: `one task at a time (concurrency 1), ${few} tasks`,
    workload: 'drain',
    contenders: [
      { label: 'leasehold', system: 'leasehold', parameters: { tasks: few, concurrency: 1 } },
      {
        label: 'graphile-worker (default)',
        system: 'graphile-worker',
        parameters: { tasks: few, concurrency: 1 },
      },
    ],
    shown: drainFigures.slice(0, 1),
  },
  {
    name: 'idle start latency: INSERT sent → handler entered',
    workload: 'latency',
    contenders: [
      { label: 'leasehold', system: 'leasehold', parameters: { samples: quick ? 20 : 400 } },
      {
        label: 'graphile-worker (default)',
        system: 'graphile-worker',
        parameters: { samples: quick ? 20 : 400 },
      },
    ],
    shown: [
      { figure: 'p50Ms', unit: 'ms p50', better: 'less' },
      { figure: 'p99Ms', unit: 'ms p99', better: 'less' },
    ],
  },
]

const alone: { name: string; workload: string; parameters: object; repeats: number }[] = [
  {
    name: 'submitMany of 100,000 rows',
    workload: 'submitBulk',
    parameters: { tasks: quick ? 2_000 : 100_000 },
    repeats,
  },
  {
    name: '10,000 tasks in flight, a beat every 500 ms',
    workload: 'inFlight',
    parameters: { tasks: quick ? 500 : 10_000 },
    repeats: 1,
  },
  {
    name: 'lead pipeline: 30,000 companies through all stages, no network',
    workload: 'leads',
    parameters: { companies: quick ? 500 : 30_000 },
    repeats: 1,
  },
  {
    name: '1,000,000 tasks through one runner',
    workload: 'memory',
    parameters: { tasks: quick ? 5_000 : 1_000_000 },
    repeats: 1,
  },
]

const wanted = (name: string): boolean => options.only === undefined || name.includes(options.only)

const server = await startServer()
const record: object[] = []
try {
  say(
    `${cpus().length} cores (${cpus()[0]?.model.trim()}), ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.version}`,
  )
  say(
    Object.entries(server.settings)
      .map(([name, value]) => `${name}=${value}`)
      .join(' '),
  )
  say(
    'Leasehold keeps history, leases and fences in every figure; graphile-worker deletes its jobs and keeps none.',
  )
  for (const comparison of comparisons.filter((c) => wanted(c.workload))) await compare(server, comparison)
  for (const single of alone.filter((s) => wanted(s.workload))) await runAlone(server, single)
} finally {
  await server.stop()
}
if (options.json)
  writeFileSync(options.json, `${JSON.stringify({ settings: server.settings, record }, null, 2)}\n`)

async function compare(on: BenchServer, { name, workload, contenders, shown }: Comparison): Promise<void> {
  const samples = contenders.map((): Figures[] => [])
  for (let round = 0; round < repeats; round++) {
    for (const [i, contender] of contenders.entries()) {
      samples[i]!.push(
        await measure(contender.system, workload, await on.freshDatabase(), contender.parameters),
      )
    }
  }
  say(`\n${name}; median of ${repeats} (lowest – highest)`)
  const ours = samples[0]!
  for (const { figure, unit, better } of shown) {
    for (const [i, contender] of contenders.entries()) {
      const all = samples[i]!.map((s) => s[figure]!)
      const ratio =
        better === 'more'
          ? median(ours.map((s) => s[figure]!)) / median(all)
          : median(all) / median(ours.map((s) => s[figure]!))
      const versus = i === 0 ? '' : `   leasehold is ${ratio.toFixed(2)} times better`
      say(
        `  ${contender.label.padEnd(40)} ${show(median(all)).padStart(9)} ${unit} (${show(Math.min(...all))} – ${show(Math.max(...all))})${versus}`,
      )
    }
  }
  record.push({ name, workload, contenders, samples })
}

async function runAlone(on: BenchServer, single: (typeof alone)[number]): Promise<void> {
  const samples: Figures[] = []
  for (let round = 0; round < single.repeats; round++) {
    samples.push(await measure('leasehold', single.workload, await on.freshDatabase(), single.parameters))
  }
  say(`\n${single.name}; median of ${single.repeats}`)
  for (const figure of Object.keys(samples[0]!))
    say(`  ${figure}: ${show(median(samples.map((s) => s[figure]!)))}`)
  record.push({ ...single, samples })
}

function show(value: number): string {
  return value >= 100 ? Math.round(value).toLocaleString('en') : value.toPrecision(3)
}

function say(line: string): void {
  process.stdout.write(`${line}\n`)
}
