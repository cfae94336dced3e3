/**
 * The command line of `npm run bench`: read once, all problems said at once.
 */
import { parseArgs } from 'node:util'
import { type Contender, contenderNamed, contenders } from './contenders.ts'
import type { Sizes, Workload } from './workload.ts'
import { workloadNamed, workloads } from './workloads/index.ts'

export interface Options {
  readonly help: boolean
  readonly list: boolean
  readonly selfTest: boolean
  readonly publish: boolean
  readonly sizes: Sizes
  readonly workloads: readonly Workload[]
  readonly repeats: number
  /** Only comparisons whose title has this in it; empty: all. */
  readonly titled: string
  readonly json: string | null
  readonly svg: string | null
}

const definition = {
  help: { type: 'boolean', short: 'h', default: false },
  list: { type: 'boolean', default: false },
  quick: { type: 'boolean', default: false },
  full: { type: 'boolean', default: false },
  only: { type: 'string' },
  systems: { type: 'string' },
  'without-peers': { type: 'boolean', default: false },
  repeats: { type: 'string' },
  titled: { type: 'string', default: '' },
  json: { type: 'string' },
  svg: { type: 'string' },
  publish: { type: 'boolean', default: false },
  'self-test': { type: 'boolean', default: false },
} as const

function row(left: string, right: string): string {
  return `  ${left.padEnd(22)} ${right}`
}

/** The words of --help. */
export function helpText(): string {
  return [
    'npm run bench -- [OPTIONS]    measures Leasehold beside its peers on one PostgreSQL, repeats interleaved',
    '',
    row('--quick', 'everything tiny, once: to see that it runs; its figures mean nothing'),
    row('--full', '1,000,000 tasks, backlogs to 10,000,000, 30 minutes of W5: a day or so, 60 GB of disk'),
    row('--only W1,W3', 'these workloads (number or name)'),
    row('--titled TEXT', 'only the comparisons with this in their title, e.g. "10 handlers"'),
    row('--systems a,b', 'these systems; the first of a table is what ratios refer to'),
    row('--without-peers', 'Leasehold and what needs no further installation'),
    row('--repeats N', 'how often each cell is measured (5; --quick 1)'),
    row('--json FILE', 'every sample with settings, versions and machine'),
    row('--svg FILE', 'the plots; with several, their names are put before the ending'),
    row('--publish', 'puts tables, samples and plots into docs/benchmarks, one comparison at a time'),
    row('--self-test', 'a tiny run of every system in every workload: nothing lost, nothing twice'),
    row('--list', 'shows what would be measured and ends'),
    '',
    'Workloads',
    ...workloads.map(({ id, name, about }) => row(`${id.padEnd(4)}${name}`, about)),
    '',
    'Systems',
    ...contenders.map(({ name, label }) => row(name, label)),
    '',
    'Method, fairness and how to read the figures: docs/benchmarks.md.',
  ].join('\n')
}

/** Reads the arguments. Throws an Error that lists every problem. */
export function readOptions(args: readonly string[]): Options {
  const { values } = parseArgs({ args: [...args], options: definition })
  const problems: string[] = []
  const named = <T>(text: string | undefined, find: (name: string) => T, all: readonly T[]): readonly T[] => {
    if (text === undefined) return all
    return text.split(',').flatMap((name) => {
      try {
        return [find(name.trim())]
      } catch (error) {
        problems.push((error as Error).message)
        return []
      }
    })
  }
  const chosen = named(values.only, workloadNamed, workloads)
  const systems = named<Contender>(values.systems, (name) => contenderNamed(name), contenders).filter(
    ({ installedBy }) => installedBy === 'root' || !values['without-peers'],
  )
  const repeats = values.repeats === undefined ? (values.quick ? 1 : 5) : Number(values.repeats)
  if (!Number.isInteger(repeats) || repeats < 1 || repeats > 100)
    problems.push(`--repeats must be a whole number from 1 to 100, not ${values.repeats}`)
  if (values.quick && values.full) problems.push('--quick and --full exclude each other')
  if (values.publish && values.quick)
    problems.push('--publish would publish the figures of --quick, which mean nothing')
  if (systems.length === 0) problems.push('no system is left to be measured')
  if (problems.length > 0) throw new Error(problems.join('\n'))
  return {
    help: values.help,
    list: values.list,
    selfTest: values['self-test'],
    publish: values.publish,
    sizes: {
      size: values.quick || values['self-test'] ? 'quick' : values.full ? 'full' : 'default',
      contenders: systems,
    },
    workloads: chosen,
    titled: values.titled,
    repeats: values['self-test'] ? 1 : repeats,
    json: values.json ?? null,
    svg: values.svg ?? null,
  }
}
