/**
 * Streams the rows of an opened directory, from any record on, in flat memory.
 *
 * Every row comes with the position after it, so that a reader that died goes on where its last commit stood. A malformed
 * row is reported with its line and never ends the reading: a stray or unclosed quote costs the lines it spoils, because
 * parsing starts again at the line after the broken record (broken-line.ts). Choosing among the companies is select.ts.
 */
import { createReadStream } from 'node:fs'
import { pipeline } from 'node:stream'
import { CsvError, parse } from 'csv-parse'
import type { Company } from '../company.ts'
import { brokenLine, MAX_RECORD } from './broken-line.ts'
import { companyFromRecord } from './company-row.ts'
import type { Directory, Position } from './directory.ts'

/** One row: a company, or why the row at `line` was left out. `next` is the position of the row after it. */
export type DirectoryRow =
  | { readonly line: number; readonly next: Position; readonly company: Company }
  | { readonly line: number; readonly next: Position; readonly problem: string }

/** What csv-parse emits with `info: true`; its declarations leave it untyped. */
type ParsedRecord = {
  readonly record: string[]
  readonly info: { readonly bytes: number; readonly empty_lines: number }
}

type RawRecord = { readonly record: readonly string[]; readonly end: number; readonly emptyLines: number }

/**
 * Yields the rows from `from` (default: the first) to the end of the file.
 * Throws what reading the file throws, and the reason of `signal` when it aborts.
 */
export async function* readRows(
  directory: Directory,
  from: Position = directory.start,
  signal?: AbortSignal,
): AsyncGenerator<DirectoryRow, void, void> {
  const reader = { position: from }
  for (;;) {
    const parsed = { end: reader.position.offset }
    try {
      yield* rowsBetween(directory, reader, undefined, parsed, signal)
      return
    } catch (error) {
      if (!(error instanceof CsvError)) throw error
    }
    // The failing parser threw away the good records it had read ahead of us: read those again, up to the broken one.
    if (reader.position.offset < parsed.end) {
      yield* rowsBetween(directory, reader, parsed.end, { end: parsed.end }, signal)
    }
    const broken = await brokenLine(directory, reader.position, signal)
    if (broken === null) return
    reader.position = broken.next
    yield broken.record === null
      ? { line: broken.line, next: broken.next, problem: broken.problem }
      : (rowFrom(directory, broken.record, broken.line, broken.next) ?? {
          line: broken.line,
          next: broken.next,
          problem: broken.problem,
        })
  }
}

async function* rowsBetween(
  directory: Directory,
  reader: { position: Position },
  until: number | undefined,
  parsed: { end: number },
  signal: AbortSignal | undefined,
): AsyncGenerator<DirectoryRow, void, void> {
  let emptyLines = 0
  for await (const raw of records(directory, reader.position.offset, until, parsed, signal)) {
    const line = reader.position.line + raw.emptyLines - emptyLines
    emptyLines = raw.emptyLines
    reader.position = { offset: raw.end, line: line + 1 + lineBreaksIn(raw.record) }
    const row = rowFrom(directory, raw.record, line, reader.position)
    if (row !== null) yield row
  }
}

/** The records between two bytes. `parsed.end` is kept at the end of the last record understood, also when this throws. */
async function* records(
  directory: Directory,
  start: number,
  until: number | undefined,
  parsed: { end: number },
  signal: AbortSignal | undefined,
): AsyncGenerator<RawRecord, void, void> {
  const parser = parse({
    delimiter: directory.delimiter,
    record_delimiter: [...directory.recordDelimiters],
    encoding: directory.encoding,
    bom: false,
    relax_column_count: true,
    skip_empty_lines: true,
    max_record_size: MAX_RECORD,
    info: true,
    on_record: (record, context) => {
      parsed.end = start + context.bytes
      return record
    },
  })
  const file = createReadStream(directory.path, {
    start,
    ...(until === undefined ? {} : { end: until - 1 }),
    highWaterMark: 256 * 1024,
    ...(signal === undefined ? {} : { signal }),
  })
  // An error of the file reaches the loop below through the parser, which pipeline destroys with it.
  pipeline(file, parser, () => undefined)
  for await (const { record, info } of parser as AsyncIterable<ParsedRecord>) {
    yield { record, end: start + info.bytes, emptyLines: info.empty_lines }
  }
}

/** Null for a line of nothing but delimiters, which spreadsheets write at the end by the hundred. */
function rowFrom(
  directory: Directory,
  record: readonly string[],
  line: number,
  next: Position,
): DirectoryRow | null {
  const { width } = directory.columns
  if (record.every((value) => value.trim() === '')) return null
  const surplus = record.slice(width)
  if (record.length < width || surplus.some((value) => value.trim() !== '')) {
    return { line, next, problem: `has ${record.length} columns where the header has ${width}` }
  }
  const reading = companyFromRecord(directory.columns, record)
  return 'company' in reading
    ? { line, next, company: reading.company }
    : { line, next, problem: reading.problem }
}

/** Line breaks inside quoted fields; `\r\n` is one. */
function lineBreaksIn(record: readonly string[]): number {
  let count = 0
  for (const value of record) {
    for (let at = value.indexOf('\n'); at !== -1; at = value.indexOf('\n', at + 1)) count++
  }
  return count
}
