/**
 * `leasehold bench`: what can this server do? Loads it for half a minute in a scratch database and says so.
 *
 * Invariant: it loads a server only when it was told --yes, and never an existing database. Comparisons with other
 * systems are `npm run bench` of the repository.
 */
import { readConfig } from '@leasehold/service'
import type { Command } from 'commander'
import { type Context, locateDatabase, show } from '../context.ts'
import { usageError, withoutPasswords } from '../failure.ts'
import { wholeNumber } from '../options.ts'
import { measureServer, type ServerFigures } from '../server-bench/measure.ts'
import { withScratchDatabase } from '../server-bench/scratch-database.ts'
import { facts } from '../terminal/table.ts'

interface Options {
  readonly yes?: boolean
  readonly tasks: number
  readonly concurrency: number
  readonly json?: boolean
}

/** Adds the command to the program. */
export function addBench(program: Command, context: Context): void {
  program
    .command('bench')
    .description('measure what this server can do, in a scratch database that is dropped afterwards')
    .option('--yes', 'load the server')
    .option('--tasks <n>', 'tasks to submit and work off', wholeNumber(1000, 1_000_000), 50_000)
    .option('--concurrency <n>', 'handlers at once', wholeNumber(1, 10_000), 500)
    .option('--json', 'print one JSON document')
    .action((options: Options) => bench(context, options))
}

/** What ends it before its end; also SIGHUP, a terminal that is closed. */
const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

async function bench(context: Context, { yes, tasks, concurrency, json }: Options): Promise<void> {
  const { url } = await locateDatabase(readConfig(context.environment, 'cli'))
  const server = withoutPasswords(url)
  if (yes !== true) {
    throw usageError(
      `this would make a scratch database on the server of ${server}, load the server with ${tasks} tasks, and drop it`,
      'if the server may be loaded for half a minute: npx leasehold bench --yes',
    )
  }
  const stop = new AbortController()
  const onInterrupt = () => stop.abort(new Error('interrupted; the scratch database was dropped'))
  // Also a second time: the scratch database is being dropped then.
  for (const signal of signals) process.on(signal, onInterrupt)
  try {
    const figures = await withScratchDatabase(url, (scratch, name) => {
      context.terminal.note(`scratch database ${name}`)
      const progress = (what: string) => context.terminal.note(`${what} …`)
      return measureServer(scratch, { tasks, concurrency, stop: stop.signal, progress })
    })
    show(context, json, figures, () => page(context, figures))
  } finally {
    for (const signal of signals) process.off(signal, onInterrupt)
  }
}

function whole(value: number): string {
  return Math.round(value).toLocaleString('en')
}

function ms(value: number): string {
  return `${Number(value.toPrecision(3))} ms`
}

function page({ terminal }: Context, figures: ServerFigures): string {
  const settings = Object.entries(figures.server).map(([name, value]) => `${name} ${value}`)
  return facts(terminal, [
    ['server', settings.join(', ')],
    ['round trip', ms(figures.roundTripMs)],
    ['one task submitted and committed', ms(figures.commitMs)],
    ['submitted in bulk', `${whole(figures.submitManyRowsPerSecond)} tasks/s`],
    [
      `worked off, one process, ${whole(figures.concurrency)} handlers`,
      `${whole(figures.tasksPerSecond)} tasks/s`,
    ],
    ['CPU of the runner', `${Number(figures.nodeMicrosPerTask.toPrecision(3))} µs per task`],
    ['WAL of the whole server meanwhile', `${whole(figures.walBytesPerTask)} bytes per task`],
    [
      'submitted → handler entered, idle',
      `p50 ${ms(figures.startLatencyP50Ms)}, p99 ${ms(figures.startLatencyP99Ms)}`,
    ],
  ])
}
