/**
 * Opens a company directory: a CSV file whose encoding, delimiter and columns are found out from its beginning.
 *
 * Nothing but the first 256 KiB is held in memory. Refuses what is no CSV file (a folder, UTF-16 big-endian, a spreadsheet)
 * and a header without a company column, with a DirectoryInvalidError that says what to do. Reading the rows is rows.ts.
 */
import { open } from 'node:fs/promises'
import { isUtf8 } from 'node:buffer'
import { parse } from 'csv-parse/sync'
import { DirectoryInvalidError, mapColumns, type ColumnMap } from './header.ts'

const HEAD_BYTES = 256 * 1024
const DELIMITERS = [',', ';', '\t', '|'] as const

/** Where in the file to go on: the byte at which a record begins and the number of its line, counted from 1. */
export type Position = { readonly offset: number; readonly line: number }

/** An opened directory. `size` and `modifiedMs` tell whether the file is still the one that was opened. */
export type Directory = {
  readonly path: string
  readonly size: number
  readonly modifiedMs: number
  readonly encoding: 'utf8' | 'utf16le' | 'latin1'
  readonly delimiter: (typeof DELIMITERS)[number]
  readonly recordDelimiters: readonly string[]
  readonly columns: ColumnMap
  /** The first record after the header. */
  readonly start: Position
  /** What was assumed about the file and a reader of the result should know. */
  readonly notes: readonly string[]
}

/** Opens `path` and reads its header. Throws {@link DirectoryInvalidError} when it cannot serve as a directory. */
export async function openDirectory(path: string): Promise<Directory> {
  const { head, size, modifiedMs } = await readHead(path)
  refuseOtherFormats(path, head)
  const encoding = detectEncoding(head)
  const bomBytes =
    encoding === 'utf16le' ? 2 : head[0] === 0xef && head[1] === 0xbb && head[2] === 0xbf ? 3 : 0
  const text = head.subarray(bomBytes).toString(encoding)
  const recordDelimiters = text.includes('\n') || !text.includes('\r') ? ['\r\n', '\n'] : ['\r']
  const { headerText, lines } = firstRecord(path, text, recordDelimiters)
  const delimiter = detectDelimiter(headerText)
  const header = parseHeader(path, headerText, delimiter, recordDelimiters)
  return {
    path,
    size,
    modifiedMs,
    encoding,
    delimiter,
    recordDelimiters,
    columns: mapColumns(path, header),
    start: { offset: bomBytes + Buffer.byteLength(headerText, encoding), line: 1 + lines },
    notes: encoding === 'latin1' ? [`${path} is not UTF-8; its text was read as Windows-1252/Latin-1`] : [],
  }
}

async function readHead(path: string): Promise<{ head: Buffer; size: number; modifiedMs: number }> {
  try {
    await using file = await open(path, 'r')
    const facts = await file.stat()
    if (!facts.isFile())
      throw new DirectoryInvalidError(path, 'it is not a file. Name a CSV file with a header line.')
    const { buffer, bytesRead } = await file.read(
      Buffer.alloc(Math.min(HEAD_BYTES, facts.size)),
      0,
      undefined,
      0,
    )
    if (bytesRead === 0)
      throw new DirectoryInvalidError(path, 'it is empty. Name a CSV file with a header line.')
    return { head: buffer.subarray(0, bytesRead), size: facts.size, modifiedMs: Math.trunc(facts.mtimeMs) }
  } catch (cause) {
    if (cause instanceof DirectoryInvalidError) throw cause
    const code = cause instanceof Error && 'code' in cause ? String(cause.code) : 'unknown error'
    const advice =
      code === 'ENOENT'
        ? 'there is no such file. Check the path; workers on other machines need the file at the same place.'
        : `it cannot be read (${code}). Make it readable for the user the workers run as.`
    throw new DirectoryInvalidError(path, advice, { cause })
  }
}

function refuseOtherFormats(path: string, head: Buffer): void {
  const starts = (...bytes: number[]) => bytes.every((byte, i) => head[i] === byte)
  if (starts(0x50, 0x4b, 0x03, 0x04) || starts(0xd0, 0xcf, 0x11, 0xe0)) {
    throw new DirectoryInvalidError(
      path,
      'it is a spreadsheet or an archive. Save it as CSV (UTF-8) and name that file.',
    )
  }
  if (starts(0x1f, 0x8b))
    throw new DirectoryInvalidError(path, 'it is compressed. Unpack it with gunzip first.')
  if (starts(0xfe, 0xff)) {
    throw new DirectoryInvalidError(
      path,
      'it is UTF-16 big-endian. Save it as CSV (UTF-8) and name that file.',
    )
  }
}

function detectEncoding(head: Buffer): Directory['encoding'] {
  if (head[0] === 0xff && head[1] === 0xfe) return 'utf16le'
  // The head may end inside a character of up to four bytes.
  for (let cut = 0; cut < 4 && cut < head.length; cut++) {
    if (isUtf8(head.subarray(0, head.length - cut))) return 'utf8'
    if (head.length < HEAD_BYTES) break
  }
  return 'latin1'
}

/** The first record that is not blank, with everything before it and its line end, and how many lines that is. */
function firstRecord(
  path: string,
  text: string,
  recordDelimiters: readonly string[],
): { headerText: string; lines: number } {
  const end = recordDelimiters.at(-1) ?? '\n'
  let quoted = false
  let seen = false
  let lines = 0
  for (let i = 0; i < text.length; i++) {
    const char = text[i]
    if (char === '"') quoted = !quoted
    if (char === end) {
      lines++
      if (!quoted && seen) return { headerText: text.slice(0, i + 1), lines }
    } else if (char !== '\r' && char !== ' ') seen = true
  }
  if (!seen || quoted || text.length * 2 >= HEAD_BYTES) {
    throw new DirectoryInvalidError(
      path,
      'no header line was found at its beginning. Put the column names in the first line.',
    )
  }
  return { headerText: text, lines: lines + 1 }
}

/** The delimiter that occurs most often outside quotes in the header; a comma when there is only one column. */
function detectDelimiter(headerText: string): (typeof DELIMITERS)[number] {
  const counts = new Map<string, number>()
  let quoted = false
  for (const char of headerText) {
    if (char === '"') quoted = !quoted
    else if (!quoted) counts.set(char, (counts.get(char) ?? 0) + 1)
  }
  let best: (typeof DELIMITERS)[number] = ','
  for (const candidate of DELIMITERS) {
    if ((counts.get(candidate) ?? 0) > (counts.get(best) ?? 0)) best = candidate
  }
  return best
}

function parseHeader(
  path: string,
  text: string,
  delimiter: string,
  recordDelimiters: readonly string[],
): string[] {
  try {
    const records = parse(text, {
      delimiter,
      record_delimiter: [...recordDelimiters],
      relax_quotes: true,
      skip_empty_lines: true,
      skip_records_with_empty_values: true,
    })
    const header = records[0]
    if (header === undefined) throw new Error('no record')
    return header
  } catch (cause) {
    throw new DirectoryInvalidError(
      path,
      'its header line cannot be read. Put plain column names in the first line.',
      {
        cause,
      },
    )
  }
}
