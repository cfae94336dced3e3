/**
 * Takes the one line at which a CSV record broke, so that reading can go on after it.
 *
 * A record breaks by a stray quote, by an unclosed one, or by its size. Only the physical line where it began is given up;
 * whatever the open quote had swallowed is parsed anew by rows.ts. The line is never held beyond MAX_RECORD bytes and a block.
 */
import { parse } from 'csv-parse/sync'
import type { Directory, Position } from './directory.ts'
import type { Window } from './window.ts'

/** A longer record is taken for an unclosed quote. In bytes of the fields. */
export const MAX_RECORD = 1_000_000

/**
 * The line that was given up. `record` is there when the quotes were merely sloppy (`Joe "J" Doe`): read literally, the
 * line has the right number of columns after all.
 */
export type BrokenLine = {
  readonly line: number
  readonly next: Position
  readonly record: readonly string[] | null
  readonly problem: string
}

/** Takes the first line that is not blank off the window, which begins at line `line`; null at the end of the file. */
export async function brokenLine(
  directory: Directory,
  window: Window,
  line: number,
): Promise<BrokenLine | null> {
  for (; ; line++) {
    while (window.firstLine === null && window.size <= MAX_RECORD) await window.more()
    const text = textOf(directory, window)
    if (!(await window.skipLine())) return null
    const next = { offset: window.offset, line: line + 1 }
    if (text === null) return { line, next, record: null, problem: `is longer than ${MAX_RECORD} bytes` }
    if (text.trim() === '') continue
    return { line, next, record: readLiterally(directory, text), problem: 'has an unclosed or stray quote' }
  }
}

function textOf(directory: Directory, window: Window): string | null {
  const line = window.firstLine
  return line === null || line.length > MAX_RECORD ? null : line.toString(directory.encoding)
}

function readLiterally(directory: Directory, text: string): readonly string[] | null {
  try {
    const records = parse(text, {
      delimiter: directory.delimiter,
      record_delimiter: [...directory.recordDelimiters],
      relax_quotes: true,
      relax_column_count: true,
    })
    const record = records[0]
    return record !== undefined && record.length === directory.columns.width ? record : null
  } catch {
    // Refused even with literal quotes: the line stays broken, which is what null says.
    return null
  }
}
