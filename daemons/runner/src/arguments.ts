/**
 * The runner daemon's command line: which stages, from which module, on which slot, how many at once, for which run; or a
 * manifest and the slot to be.
 *
 * Refuses what it does not know, with all problems at once, as the configuration does. What is not given here is taken
 * from the environment (daemon.ts).
 */
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { ConfigError, type ConfigProblem } from '@leasehold/queue'

/** What was given; null: nothing. */
export interface Arguments {
  /** The manifest's file; it says stages and module then. */
  readonly config: string | null
  /** Empty: all stages of the module. */
  readonly stages: string[]
  /** What to import: a package's name or a file's URL. */
  readonly module: string
  readonly slot: string | null
  readonly concurrency: number | null
  readonly run: string | null
}

const options = {
  config: { type: 'string' },
  stage: { type: 'string', multiple: true },
  module: { type: 'string' },
  slot: { type: 'string' },
  concurrency: { type: 'string' },
  run: { type: 'string' },
} as const

/** Reads the arguments; with problems, what is right among them. Throws {@link ConfigError} when they are no arguments. */
export function readArguments(args: string[]): { given: Arguments; problems: ConfigProblem[] } {
  const values = parse(args)
  const problems: ConfigProblem[] = []
  if (values.concurrency !== undefined && !/^[1-9]\d{0,5}$/.test(values.concurrency)) {
    problems.push({
      name: '--concurrency',
      problem: `must be a whole number from 1, not '${values.concurrency}'`,
    })
  }
  if (values.slot !== undefined && !/^[!-~]{1,100}$/.test(values.slot)) {
    problems.push({ name: '--slot', problem: 'must be 1 to 100 printable characters without spaces' })
  }
  for (const name of values.config === undefined ? [] : (['module', 'stage'] as const)) {
    if (values[name] !== undefined)
      problems.push({
        name: `--${name}`,
        problem: 'is said by the manifest (--config); leave one of the two out',
      })
  }
  const given = {
    config: values.config ?? null,
    stages: values.stage ?? [],
    module: importable(values.module ?? '@leasehold/pipeline-leads'),
    slot: values.slot ?? null,
    concurrency: values.concurrency === undefined ? null : Number(values.concurrency),
    run: values.run ?? null,
  }
  return { given, problems }
}

function parse(args: string[]): ReturnType<typeof parseArgs<{ options: typeof options }>>['values'] {
  try {
    return parseArgs({ args, options }).values
  } catch (error) {
    throw new ConfigError([{ name: 'arguments', problem: (error as Error).message }], { cause: error })
  }
}

function importable(module: string): string {
  return /^[./]/.test(module) || existsSync(module) ? pathToFileURL(resolve(module)).href : module
}
