/**
 * `leasehold submit`: one task from the command line, its payload as an argument or from standard input.
 *
 * Invariant: numbers reach the database exactly as they were typed, also beyond 2^53; the id of the task is the only
 * thing on standard output.
 * Payloads are checked by the worker's schema when the task is worked: this program knows no stage's.
 */
import { type SubmitOptions, databaseClock, submit } from '@leasehold/queue'
import { type Command, Option } from 'commander'
import { text as readAll } from 'node:stream/consumers'
import { type Context, show, withDatabase } from '../context.ts'
import { parseExactly } from '../exact-json.ts'
import { usageError } from '../failure.ts'
import { collectIds, wholeNumber } from '../options.ts'
import { parseDuration, parseMoment } from '../terminal/time.ts'

interface Options {
  readonly priority?: number
  readonly runAt?: string
  readonly key?: string
  readonly onKeyConflict: 'error' | 'keep' | 'replace'
  readonly dependsOn?: string[]
  readonly concurrencyKey?: string
  readonly run?: string
  readonly title?: string
  readonly maxAttempts?: number
  readonly timeout?: string
  readonly meta?: string
  readonly json?: boolean
}

/** Adds the command to the program. */
export function addSubmit(program: Command, context: Context): void {
  program
    .command('submit')
    .description(
      'submit a task and print its id. Its payload is checked by the worker: one that does not fit the stage is dead at once',
    )
    .argument('<stage>')
    .argument('[payload]', 'JSON, or - to read it from standard input', '{}')
    .option('--priority <0-9>', 'higher first (default: the stage’s)', wholeNumber(0, 9))
    .option('--run-at <moment>', 'not before: +10min, 2026-11-21T22:00:00Z')
    .option('--key <key>', 'unique within the stage while the task is unfinished')
    .addOption(
      new Option('--on-key-conflict <how>', 'when an unfinished task holds the key')
        .choices(['error', 'keep', 'replace'])
        .default('error'),
    )
    .option('--depends-on <ids...>', 'tasks that must be done first', collectIds)
    .option('--concurrency-key <key>', 'at most the stage’s limit of tasks with one key run at once')
    .option('--run <run>', 'the run it belongs to')
    .option('--title <text>', 'shown in lists')
    .option('--max-attempts <n>', 'default: the stage’s', wholeNumber(1, 1_000))
    .option('--timeout <time>', '90s, 10min, 2h (default: the stage’s)')
    .option('--meta <json>', 'kept with the task, not given to the handler as payload')
    .option('--json', 'print one JSON document')
    .action((stage: string, payload: string, options: Options) => submitOne(context, stage, payload, options))
}

async function submitOne(
  context: Context,
  stage: string,
  payloadText: string,
  options: Options,
): Promise<void> {
  const payload =
    payloadText === '-'
      ? parseJson(await readAll(context.stdin), 'standard input')
      : parseJson(payloadText, 'the payload')
  const meta = options.meta === undefined ? undefined : parseJson(options.meta, '--meta')
  const timeout = options.timeout === undefined ? undefined : parseDuration(options.timeout, '--timeout')
  await withDatabase(context, async ({ pool }) => {
    const runAt =
      options.runAt === undefined
        ? undefined
        : parseMoment(options.runAt, '--run-at', await databaseClock(pool))
    const settings: SubmitOptions = {
      ...(options.priority !== undefined && { priority: options.priority }),
      ...(runAt !== undefined && { runAt }),
      ...(options.key !== undefined && { key: options.key }),
      ...(options.dependsOn !== undefined && { dependsOn: options.dependsOn }),
      ...(options.concurrencyKey !== undefined && { concurrencyKey: options.concurrencyKey }),
      ...(options.run !== undefined && { runId: options.run }),
      ...(options.title !== undefined && { title: options.title }),
      ...(options.maxAttempts !== undefined && { maxAttempts: options.maxAttempts }),
      ...(timeout !== undefined && { timeout }),
      ...(meta !== undefined && { meta }),
    }
    const taskId = await submit(pool, stage, payload, { ...settings, onKeyConflict: options.onKeyConflict })
    show(context, options.json, { taskId }, () => taskId)
    if (options.json !== true && context.terminal.isTty)
      context.terminal.note(`watch it: npx leasehold show ${taskId}`)
  })
}

function parseJson(text: string, where: string): unknown {
  try {
    return parseExactly(text)
  } catch (error) {
    const why = error instanceof RangeError ? 'it is nested too deeply' : (error as Error).message
    throw usageError(
      `${where} is not JSON: ${why}`,
      `write for example '{"company_id": 7}', in single quotes`,
    )
  }
}
