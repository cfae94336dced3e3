/**
 * Streams the rows of an opened directory, from any record on, in flat memory.
 *
 * Every row comes with the position after it, so that a reader that died goes on where its last commit stood. A malformed
 * row is reported with its line and never ends the reading: a stray or unclosed quote costs the lines it spoils, because
 * parsing starts again at the line after the broken record (broken-line.ts), in what was read of the file already
 * (window.ts). Choosing among the companies is select.ts.
 */
import { CsvError, parse } from 'csv-parse/sync'
import type { Company } from '../company.ts'
import { type BrokenLine, brokenLine, MAX_RECORD } from './broken-line.ts'
import { companyFromRecord } from './company-row.ts'
import type { Directory, Position } from './directory.ts'
import { openWindow, type Window } from './window.ts'

/** One row: a company, or why the row at `line` was left out. `next` is the position of the row after it. */
export type DirectoryRow =
  | { readonly line: number; readonly next: Position; readonly company: Company }
  | { readonly line: number; readonly next: Position; readonly problem: string }

/** A record as it was parsed; `end` and `emptyLines` count from the beginning of the text. */
type RawRecord = { readonly record: readonly string[]; readonly end: number; readonly emptyLines: number }

/** What was understood of a text, and why no more: `broken` by a record, or the last one is not `closed` in it. */
type Parsed = { readonly records: readonly RawRecord[]; readonly stopped: 'end' | 'broken' | 'unclosed' }

/**
 * Yields the rows from `from` (default: the first) to the end of the file.
 * Throws what reading the file throws, and the reason of `signal` when it aborts.
 */
export async function* readRows(
  directory: Directory,
  from: Position = directory.start,
  signal?: AbortSignal,
): AsyncGenerator<DirectoryRow, void, void> {
  await using window = await openWindow(directory, from.offset, signal)
  let position = from
  for (;;) {
    signal?.throwIfAborted()
    const { records, stopped } = parseLines(directory, window.lines)
    const { offset, line: firstLine } = position
    let earlierLines = 0
    for (const { record, end, emptyLines } of records) {
      const line = firstLine + emptyLines + earlierLines
      const lines = 1 + lineBreaksIn(record)
      earlierLines += lines
      position = { offset: offset + end, line: line + lines }
      const row = rowFrom(directory, record, line, position)
      if (row !== null) yield row
      signal?.throwIfAborted()
    }
    window.moveTo(position.offset)
    if (records.length === 0 && stopped === 'end') position = await skipBlankLines(window, position)
    const tooLong = window.size > MAX_RECORD && (stopped === 'unclosed' || window.firstLine === null)
    if (stopped !== 'broken' && !tooLong && !(stopped === 'unclosed' && window.ended)) {
      if (window.ended) return
      await window.more()
      continue
    }
    const broken = await brokenLine(directory, window, position.line)
    if (broken === null) return
    position = broken.next
    yield rowOfBroken(directory, broken)
  }
}

/** Parses whole lines up to the first record that breaks. */
function parseLines(directory: Directory, lines: Buffer): Parsed {
  const records: RawRecord[] = []
  try {
    parse(lines, {
      delimiter: directory.delimiter,
      record_delimiter: [...directory.recordDelimiters],
      encoding: directory.encoding,
      bom: false,
      relax_column_count: true,
      skip_empty_lines: true,
      max_record_size: MAX_RECORD,
      on_record: (record: string[], { bytes, empty_lines }) => {
        records.push({ record, end: bytes, emptyLines: empty_lines })
        return null
      },
    })
    return { records, stopped: 'end' }
  } catch (error) {
    if (!(error instanceof CsvError)) throw error
    return { records, stopped: error.code === 'CSV_QUOTE_NOT_CLOSED' ? 'unclosed' : 'broken' }
  }
}

/** Whole lines in which there was no record: they hold nothing, and are not looked at again. */
async function skipBlankLines(window: Window, { offset, line }: Position): Promise<Position> {
  const end = offset + window.lines.length
  while (window.offset < end && (await window.skipLine())) line++
  return { offset: window.offset, line }
}

function rowOfBroken(directory: Directory, { line, next, record, problem }: BrokenLine): DirectoryRow {
  const row = record === null ? null : rowFrom(directory, record, line, next)
  return row ?? { line, next, problem }
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
