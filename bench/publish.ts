/**
 * Published results: docs/benchmarks/ with every sample (results.json), all tables as text (results.txt) and the plots.
 *
 * A whole run takes a day. So each comparison is published when it has been measured, in place of the same one measured
 * earlier, and says when and at which commit: what is compared with each other was always measured in one run. Results of
 * another machine or server are not mixed with these; they are replaced as a whole.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { plotsOf } from './plots.ts'
import type { ComparisonRecord, RunRecord } from './record.ts'
import { contenders } from './contenders.ts'
import { comparisonTable, keepsTable } from './table.ts'
import { workloads } from './workloads/index.ts'

const publishedFolder = fileURLToPath(new URL('../docs/benchmarks/', import.meta.url))

/** What must be equal for results to stand side by side. */
function groundOf({ machine, settings }: RunRecord): string {
  const { cores, processor, memoryGib, system, versions } = machine
  return JSON.stringify({ cores, processor, memoryGib, system, versions, settings })
}

function publishedIn(folder: string): RunRecord | null {
  try {
    return JSON.parse(readFileSync(join(folder, 'results.json'), 'utf8')) as RunRecord
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw new Error(`${folder}results.json cannot be read: ${(error as Error).message}`, {
      cause: error,
    })
  }
}

function isSame(one: ComparisonRecord, other: ComparisonRecord): boolean {
  return one.id === other.id && one.title === other.title
}

function place({ id }: ComparisonRecord): number {
  return workloads.findIndex((workload) => workload.id === id)
}

/** The run with what was published before and has not been measured again. */
function mergedWith(before: RunRecord | null, run: RunRecord): RunRecord {
  if (before === null || groundOf(before) !== groundOf(run)) return run
  const kept = before.comparisons.filter((old) => !run.comparisons.some((one) => isSame(one, old)))
  return { ...run, comparisons: [...kept, ...run.comparisons].toSorted((a, b) => place(a) - place(b)) }
}

function tablesOf({ machine, settings, comparisons }: RunRecord): string[] {
  return [
    `${machine.cores} cores (${machine.processor}), ${machine.memoryGib} GiB, ${machine.system}, Node ${machine.node}`,
    ...Object.entries(machine.versions).map(([name, version]) => `${name} ${version}`),
    ...Object.entries(settings).map(([name, value]) => `${name}=${value}`),
    '',
    'Made by `npm run bench -- --publish`. Each table was measured in one run, its repeats interleaved.',
    '',
    ...keepsTable(contenders),
    ...comparisons.flatMap((comparison) => [
      '',
      ...comparisonTable(comparison),
      `  measured ${comparison.at.slice(0, 16).replace('T', ' ')} UTC at ${comparison.commit}`,
    ]),
  ]
}

/** Writes what this run has measured so far into the published results. */
export function publish(run: RunRecord, folder: string = publishedFolder): void {
  mkdirSync(folder, { recursive: true })
  const whole = mergedWith(publishedIn(folder), run)
  writeFileSync(join(folder, 'results.json'), `${JSON.stringify(whole)}\n`)
  const text = tablesOf(whole).map((line) => line.trimEnd())
  writeFileSync(join(folder, 'results.txt'), `${text.join('\n')}\n`)
  for (const [name, content] of plotsOf(whole)) writeFileSync(join(folder, `${name}.svg`), content)
}
