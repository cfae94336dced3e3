/**
 * `leasehold export RUN`: what a run has found, as CSV for spreadsheets or JSON for programs, to a file or a pipe.
 *
 * Invariant: a file is there completely or not at all; rows are streamed, so size does not matter; no cell of a CSV can
 * become a formula in a spreadsheet. Which rows a run has is said in ../run-rows.ts.
 */
import { stringify } from 'csv-stringify'
import { createWriteStream } from 'node:fs'
import { rename, rm } from 'node:fs/promises'
import { Readable, Transform, type Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { Command } from 'commander'
import { type Context, withDatabase } from '../context.ts'
import { usageError } from '../failure.ts'
import { type Row, type RunRows, openRunRows } from '../run-rows.ts'
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
  await withDatabase(context, async ({ pool }) => {
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
  })
}

async function write(rows: RunRows, json: boolean, target: Writable, end: { end: boolean }): Promise<number> {
  let count = 0
  async function* counted(): AsyncGenerator<Row> {
    for await (const row of rows.rows) {
      count += 1
      yield row
    }
  }
  const format = json
    ? jsonArray()
    : stringify({ header: true, columns: [...rows.columns], escape_formulas: true, cast: { date: isoDate } })
  await pipeline(Readable.from(counted()), format, target, end)
  return count
}

function isoDate(date: Date): string {
  return date.toISOString()
}

/** One row to a line, so that the array can be read by eye and by `grep`. */
function jsonArray(): Transform {
  let first = true
  return new Transform({
    writableObjectMode: true,
    transform(row: Row, _encoding, done) {
      done(null, `${first ? '[\n' : ',\n'}${safeJson(row, 0)}`)
      first = false
    },
    flush(done) {
      done(null, first ? '[]\n' : '\n]\n')
    },
  })
}
