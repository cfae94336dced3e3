/**
 * Takes the one line at which a CSV record broke, so that reading can go on after it.
 *
 * A record breaks by a stray quote, by an unclosed one, or by its size. Only the physical line where it began is given up;
 * whatever the open quote had swallowed is parsed anew by rows.ts. The line is never held beyond MAX_RECORD bytes.
 */
import { createReadStream } from 'node:fs'
import { parse } from 'csv-parse/sync'
import type { Directory, Position } from './directory.ts'

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

/** Reads the first line that is not blank at or after `from`; null at the end of the file. */
export async function brokenLine(
  directory: Directory,
  from: Position,
  signal: AbortSignal | undefined,
): Promise<BrokenLine | null> {
  let { offset, line } = from
  for (;;) {
    const read = await readLine(directory, offset, signal)
    if (read === null) return null
    const next = { offset: read.end, line: line + 1 }
    if (read.text === null) return { line, next, record: null, problem: `is longer than ${MAX_RECORD} bytes` }
    if (read.text.trim() !== '') {
      return {
        line,
        next,
        record: readLiterally(directory, read.text),
        problem: 'has an unclosed or stray quote',
      }
    }
    offset = next.offset
    line = next.line
  }
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

async function readLine(
  directory: Directory,
  offset: number,
  signal: AbortSignal | undefined,
): Promise<{ text: string | null; end: number } | null> {
  const newline = Buffer.from(directory.recordDelimiters.at(-1) ?? '\n', directory.encoding)
  const file = createReadStream(directory.path, {
    start: offset,
    ...(signal === undefined ? {} : { signal }),
  })
  const chunks: Buffer[] = []
  let seen = 0
  for await (const chunk of file as AsyncIterable<Buffer>) {
    const at = findAligned(chunk, newline)
    const used = at === -1 ? chunk : chunk.subarray(0, at + newline.length)
    seen += used.length
    if (seen <= MAX_RECORD) chunks.push(used)
    if (at !== -1) break
  }
  if (seen === 0) return null
  const end = offset + seen
  return { text: seen > MAX_RECORD ? null : Buffer.concat(chunks).toString(directory.encoding), end }
}

/** Where `newline` is in `chunk`; in UTF-16 only at whole characters, since U+0A00 and its like hold the same bytes. */
function findAligned(chunk: Buffer, newline: Buffer): number {
  let at = chunk.indexOf(newline)
  while (at !== -1 && at % newline.length !== 0) at = chunk.indexOf(newline, at + 1)
  return at
}
