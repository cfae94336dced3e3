/**
 * What one attempt says while it runs: log lines, capped, and its latest progress, waiting to be sent.
 *
 * Invariant: a handler that logs in an endless loop fills its own allowance and nothing else; every line is storable.
 * When they are sent is the ledger's decision, whether they are still accepted leasehold.write_notes'.
 */
import { cleanJson, cleanText } from '@leasehold/queue'

const maxLines = 1000
const maxCharacters = 256 * 1024
const maxMessage = 8192
const maxFields = 16_384

/** A line on its way. `rest` is JSON without its lease and age. */
export interface Line {
  /** performance.now() when it was said. */
  readonly at: number
  readonly rest: string
}

/** The levels a handler may use. */
export type Level = 'debug' | 'info' | 'warn' | 'error'

/** The lines of one attempt. */
export class Notebook {
  /** Its attempt writes what it says in its own transaction now: nobody else may take lines. */
  held = false
  private lines: Line[] = []
  private arrival = Promise.withResolvers<void>()
  private departures = 0
  private progressLine: Line | null = null
  private count = 0
  private characters = 0

  /** Writes a line; the one that fills the allowance says so, and later ones are dropped. */
  log(level: Level, message: unknown, fields?: object): void {
    if (this.count > maxLines) return
    const text = cleanText(wording(message), maxMessage)
    const extra = fields === undefined ? '' : `,"fields":${cleanJson(fields, maxFields)}`
    this.count += 1
    this.characters += text.length + extra.length
    if (this.count <= maxLines && this.characters <= maxCharacters) {
      this.lines.push(line(`"kind":"log","level":"${level}","message":${JSON.stringify(text)}${extra}}`))
      return
    }
    this.count = maxLines + 1
    const full = 'the log of this attempt is full; further lines are dropped'
    this.lines.push(line(`"kind":"log","level":"warn","message":"${full}"}`))
  }

  /** Notes how far the attempt is; only the latest is kept. */
  progress(fraction: number | null, message?: unknown): void {
    // Six digits: PostgreSQL's real refuses numbers that are smaller than it can hold.
    const within =
      fraction === null || !Number.isFinite(fraction)
        ? null
        : Math.round(Math.min(1, Math.max(0, fraction)) * 1e6) / 1e6
    const said = message === undefined ? 'null' : JSON.stringify(cleanText(wording(message), 500))
    this.progressLine = line(`"kind":"progress","fraction":${within},"message":${said}}`)
  }

  /** Whether lines are being sent by an exchange. */
  get underWay(): boolean {
    return this.departures > 0
  }

  /** Lines that were taken are being sent by an exchange. */
  depart(): void {
    this.departures += 1
  }

  /** They have arrived, or were put back, or were refused. */
  arrive(): void {
    this.departures -= 1
    if (this.departures > 0) return
    this.arrival.resolve()
    this.arrival = Promise.withResolvers()
  }

  /** Resolves when no line is under way: one that came after its lease was settled would be dropped. */
  async settled(): Promise<void> {
    if (this.departures > 0) await this.arrival.promise
  }

  /** Takes all that waits. */
  take(): Line[] {
    const taken = this.lines
    if (this.progressLine !== null) taken.push(this.progressLine)
    this.lines = []
    this.progressLine = null
    return taken
  }

  /** They did not arrive: they wait again, before whatever was said since. */
  putBack(lines: readonly Line[]): void {
    this.lines = [...lines, ...this.lines]
  }
}

/** Not every handler is typed: an error or an object instead of a text must not harm the attempt. */
function wording(message: unknown): string {
  if (typeof message === 'string') return message
  return message instanceof Error ? message.message : cleanJson(message)
}

function line(rest: string): Line {
  return { at: performance.now(), rest }
}

/** A line as leasehold.write_notes takes it. */
export function lineJson(taskId: string, fence: string, { at, rest }: Line): string {
  return `{"task_id":"${taskId}","fence":"${fence}","at_ms_ago":${Math.max(0, Math.round(performance.now() - at))},${rest}`
}
