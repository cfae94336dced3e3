/**
 * `npm run bench`: Leasehold beside its peers on one PostgreSQL in one run, repeats interleaved (ABAB), medians and ratios.
 *
 * Only durable completions count. Results are written after each comparison, so a run that is ended early leaves what it
 * has. A system that fails is reported and the others go on; the exit code is 1 then.
 */
import { writeFileSync } from 'node:fs'
import { compare } from './compare.ts'
import { contenders } from './contenders.ts'
import { describeMachine } from './machine.ts'
import { helpText, type Options, readOptions } from './options.ts'
import { plotsOf } from './plots.ts'
import { publish } from './publish.ts'
import type { RunRecord } from './record.ts'
import { startServer } from './server.ts'
import { comparisonTable, keepsTable } from './table.ts'
import type { Comparison, Workload } from './workload.ts'

const peersMissing = process.env['LEASEHOLD_BENCH_WITHOUT_PEERS'] === '1'

function say(line = ''): void {
  process.stdout.write(`${line}\n`)
}

/** Progress is for whoever watches: it does not get into the table. */
function progress(line: string): void {
  process.stderr.write(`${line}\n`)
}

function planOf({ workloads, sizes, titled }: Options): { workload: Workload; comparison: Comparison }[] {
  return workloads
    .flatMap((workload) => workload.plan(sizes).map((comparison) => ({ workload, comparison })))
    .filter(({ comparison }) => comparison.cells.length > 0 && comparison.title.includes(titled))
}

function write(run: RunRecord, { json, svg, ...options }: Options): void {
  if (json !== null) writeFileSync(json, `${JSON.stringify(run, null, 1)}\n`)
  if (svg !== null) {
    const plots = plotsOf(run)
    const ending = svg.endsWith('.svg') ? svg.slice(0, -4) : svg
    for (const [name, content] of plots)
      writeFileSync(plots.size === 1 ? `${ending}.svg` : `${ending}-${name}.svg`, content)
  }
  if (options.publish) publish(run)
}

function sayWhatIsMeasuredOn(run: RunRecord, options: Options): void {
  const { machine, settings } = run
  say(
    `${machine.cores} cores (${machine.processor}), ${machine.memoryGib} GiB, Node ${machine.node}, commit ${machine.commit}`,
  )
  say(
    Object.entries(machine.versions)
      .map(([name, version]) => `${name} ${version}`)
      .join(', '),
  )
  say(
    Object.entries(settings)
      .map(([name, value]) => `${name}=${value}`)
      .join(' '),
  )
  say()
  for (const line of keepsTable(options.sizes.contenders)) say(line)
  say()
  say(
    'Workers, load and PostgreSQL share the cores. Read the ratios first, then the medians, the ranges last.',
  )
  if (run.size === 'quick')
    say('These are the figures of --quick: they show that it runs and mean nothing else.')
}

async function measure(options: Options): Promise<boolean> {
  // However we are told to end: the cell under way is ended, and the server, which has a session of its own, is stopped.
  const interrupted = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.once(signal, () => interrupted.abort())
  const server = await startServer()
  const run: RunRecord = {
    at: new Date().toISOString(),
    size: options.sizes.size,
    machine: describeMachine(),
    settings: server.settings,
    comparisons: [],
  }
  try {
    sayWhatIsMeasuredOn(run, options)
    for (const { workload, comparison } of planOf(options)) {
      const repeats = Math.min(options.repeats, comparison.repeats ?? options.repeats)
      const measured = await compare({
        server,
        workload,
        comparison,
        repeats,
        progress,
        interrupted: interrupted.signal,
      })
      if (interrupted.signal.aborted) break
      const record = { ...measured, commit: run.machine.commit }
      run.comparisons.push(record)
      say()
      for (const line of comparisonTable(record)) say(line)
      write(run, options)
    }
  } finally {
    await server.stop()
  }
  const cells = run.comparisons.flatMap((comparison) => comparison.cells)
  const failed = cells.filter(({ failures }) => failures.length > 0)
  if (options.selfTest)
    say(
      `${cells.length - failed.length} of ${cells.length} cells: nothing lost, nothing twice. ${failed.length} failed.`,
    )
  return failed.length === 0 && !interrupted.signal.aborted
}

function list(options: Options): void {
  for (const { workload, comparison } of planOf(options)) {
    say(`${workload.id}  ${comparison.title}`)
    for (const { contender, setting, parameters } of comparison.cells)
      say(
        `      ${contender.name}${setting === undefined ? '' : `, ${setting}`}  ${JSON.stringify(parameters)}`,
      )
  }
}

/** Those whose packages could not be installed are left out, and said. */
function withoutMissing(options: Options): Options {
  if (!peersMissing) return options
  const left = options.sizes.contenders.filter(({ installedBy }) => installedBy === 'root')
  const without = contenders.filter(({ installedBy }) => installedBy === 'bench').map(({ label }) => label)
  say(`Not measured, because their packages could not be installed: ${without.join(', ')}.`)
  return { ...options, sizes: { ...options.sizes, contenders: left } }
}

try {
  const options = withoutMissing(readOptions(process.argv.slice(2)))
  if (options.help) say(helpText())
  else if (options.list) list(options)
  else process.exitCode = (await measure(options)) ? 0 : 1
} catch (error) {
  progress(`${(error as Error).message}\nnpm run bench -- --help shows what there is.`)
  process.exitCode = 2
}
