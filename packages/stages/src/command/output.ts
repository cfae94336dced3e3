/**
 * A program's output as lines: into the task's log while it runs, and the last ones kept for its end.
 *
 * Invariant: memory is bounded whatever is printed: endless lines, no line ends at all, bytes that are no text. Once the
 * log of the attempt is full, only the end of each piece is looked at, so that gigabytes cost reading and nothing else.
 */
import { parseExact } from '@leasehold/queue'
import { StringDecoder } from 'node:string_decoder'

export type StreamName = 'stdout' | 'stderr'

const longestLine = 8000
/** More than an attempt's log takes (packages/runner/src/notes.ts): what comes after it would be dropped there. */
const loggedLines = 1001
const loggedCharacters = 264_000
/** Of a piece that is not logged any more. */
const glanceBytes = 8192
const keptLines = 20
const keptCharacters = 500
/** A last line that is longer is no result. */
const longestResultBytes = 256 * 1024

/** The output of one run of a program. */
export class Output {
  private readonly log: (stream: StreamName, line: string) => void
  private readonly readers: Record<StreamName, LineReader>
  private readonly ending = new Tail(longestResultBytes)
  private readonly last: string[] = []
  private readonly lastErrors: string[] = []
  private lines = 0
  private characters = 0

  constructor(log: (stream: StreamName, line: string) => void) {
    this.log = log
    this.readers = {
      stdout: new LineReader((line) => this.take('stdout', line)),
      stderr: new LineReader((line) => this.take('stderr', line)),
    }
  }

  /** A piece of a stream, as it came. */
  add(stream: StreamName, piece: Buffer): void {
    if (stream === 'stdout') this.ending.add(piece)
    this.readers[stream].add(this.logFull ? glance(piece) : piece)
  }

  /** Nothing more comes: a last line without its end is one too. */
  end(): void {
    this.readers.stdout.end()
    this.readers.stderr.end()
  }

  /** The last lines of both streams as they came, oldest first, each cut. */
  get lastLines(): readonly string[] {
    return this.last
  }

  /** What the program said at last to explain itself: its last errors, else its last lines. */
  get lastWords(): string {
    return (this.lastErrors.length > 0 ? this.lastErrors : this.last).slice(-10).join('\n')
  }

  /** The object that the last line of standard output is, in JSON; undefined when it is something else. */
  get result(): object | undefined {
    const text = this.ending.lastLine()
    if (text === null || !text.startsWith('{')) return undefined
    try {
      return parseExact(text) as object
    } catch {
      return undefined
    }
  }

  private get logFull(): boolean {
    return this.lines > loggedLines || this.characters > loggedCharacters
  }

  private take(stream: StreamName, line: string): void {
    if (line === '') return
    if (!this.logFull) {
      this.lines += 1
      this.characters += line.length
      this.log(stream, line)
    }
    const cut = line.length > keptCharacters ? `${line.slice(0, keptCharacters - 1)}…` : line
    keep(this.last, cut)
    if (stream === 'stderr') keep(this.lastErrors, cut)
  }
}

function keep(lines: string[], line: string): void {
  lines.push(line)
  if (lines.length > keptLines) lines.shift()
}

/** The end of a piece, from a whole line on where there is one. */
function glance(piece: Buffer): Buffer {
  if (piece.length <= glanceBytes) return piece
  const end = piece.subarray(-glanceBytes)
  return end.subarray(end.indexOf(10) + 1)
}

/** Bytes to lines. What is no UTF-8 becomes U+FFFD; of a line that was overwritten (`\r`) the last state counts. */
class LineReader {
  private readonly decoder = new StringDecoder('utf8')
  private readonly emit: (line: string) => void
  private partial = ''

  constructor(emit: (line: string) => void) {
    this.emit = emit
  }

  add(piece: Buffer): void {
    const lines = (this.partial + this.decoder.write(piece)).split('\n')
    this.partial = lines.pop() ?? ''
    for (const line of lines) this.emitLine(line)
    while (this.partial.length > longestLine) {
      this.emit(this.partial.slice(0, longestLine))
      this.partial = this.partial.slice(longestLine)
    }
  }

  end(): void {
    this.emitLine(this.partial + this.decoder.end())
    this.partial = ''
  }

  private emitLine(whole: string): void {
    const line = whole.replace(/\r+$/, '')
    const shown = line.slice(line.lastIndexOf('\r') + 1)
    for (let from = 0; from < shown.length; from += longestLine)
      this.emit(shown.slice(from, from + longestLine))
  }
}

/** The last bytes of a stream. */
class Tail {
  private readonly most: number
  private pieces: Buffer[] = []
  private bytes = 0
  private cut = false

  constructor(most: number) {
    this.most = most
  }

  add(piece: Buffer): void {
    this.pieces.push(piece)
    this.bytes += piece.length
    while (this.bytes - this.pieces[0]!.length >= this.most) {
      this.bytes -= this.pieces.shift()!.length
      this.cut = true
    }
  }

  /** The last line that is not blank; null when there is none or its beginning is lost. */
  lastLine(): string | null {
    const text = Buffer.concat(this.pieces).toString('utf8').trimEnd()
    const start = text.lastIndexOf('\n') + 1
    return text === '' || (this.cut && start === 0) ? null : text.slice(start).trim()
  }
}
