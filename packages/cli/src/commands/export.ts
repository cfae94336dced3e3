/**
 * `leasehold export RUN`: what a run has found, as CSV for spreadsheets or JSON for programs, to a file or a pipe.
 *
 * Invariant: a file is there completely or not at all; rows are streamed, so size does not matter. Which rows a run has,
 * and their CSV, is ../run-rows.ts.
 */
import { createWriteStream } from 'node:fs'
import { rename, rm } from 'node:fs/promises'
import type { Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { Command } from 'commander'
import { type Context, withDatabase } from '../context.ts'
import { usageError } from '../failure.ts'
import { type RunRows, openRunRows } from '../run-rows.ts'
import { safeJson } from '../terminal/printable.ts'

interface ExportOptions {
  readonly csv?: boolean
  readonly json?: boolean
  readonly output?: string
  readonly tasks?: boolean
}

/** Adds the command to the program. */
export function addExport(program: Command, context: Context): void {
  program
    .command('export')
    .description('the result of a run: its leads, or for other pipelines its tasks with their results')
    .argument('<run>')
    .option('--csv', 'comma separated, with a header (default)')
    .option('--json', 'one JSON array')
    .option('--tasks', 'the tasks, also for a run that has leads')
    .option('-o, --output <file>', 'write a file instead of standard output')
    .action((run: string, options: ExportOptions) => exportRun(context, run, options))
}

async function exportRun(context: Context, run: string, options: ExportOptions): Promise<void> {
  const { csv, json, output } = options
  if (csv === true && json === true)
    throw usageError('--csv and --json exclude each other', 'choose one of them')
  await withDatabase(
    context,
    async ({ pool }) => {
      const rows = await openRunRows(pool, run, options.tasks === true)
      if (output === undefined) {
        await write(rows, json === true, process.stdout, { end: false })
        return
      }
      const partial = `${output}.partial`
      try {
        const count = await write(rows, json === true, createWriteStream(partial), { end: true })
        await rename(partial, output)
        context.terminal.note(`${count} ${rows.kind} written to ${output}`)
      } catch (error) {
        await rm(partial, { force: true })
        throw error
      }
    },
    { startStopped: true },
  )
}

async function write(
  result: RunRows,
  json: boolean,
  target: Writable,
  end: { end: boolean },
): Promise<number> {
  let count = 0
  async function* counted(): AsyncGenerator<object> {
    for await (const row of result.rows) {
      count += 1
      yield row
    }
  }
  await pipeline(json ? jsonArray(counted()) : result.toCsv(counted()), target, end)
  return count
}

/** One row to a line, so that the array can be read by eye and by `grep`. */
async function* jsonArray(rows: AsyncIterable<object>): AsyncGenerator<string> {
  let before = '[\n'
  for await (const row of rows) {
    yield `${before}${safeJson(row, 0)}`
    before = ',\n'
  }
  yield before === '[\n' ? '[]\n' : '\n]\n'
}
