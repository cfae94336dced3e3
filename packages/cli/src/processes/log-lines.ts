/**
 * What daemons write, made readable: their JSON log lines become one line of text, everything else stays as it is.
 *
 * Invariant: one line in, one line out, safe to show. Nothing is left out but what every line repeats.
 */
import { printable, safeJson } from '../terminal/printable.ts'
import type { Terminal } from '../terminal/terminal.ts'

const repeated = new Set(['level', 'time', 'name', 'pid', 'hostname', 'msg'])

/** `22:34:01.123 info  lease lost  taskId=7 fence=12`, or the line itself when it is no log line. */
export function readableLine(terminal: Terminal, line: string): string {
  const entry = parseEntry(line)
  if (entry === null) return printable(line, 4_000)
  const fields = Object.entries(entry)
    .filter(([name]) => !repeated.has(name))
    .map(([name, value]) => `${printable(name)}=${fieldText(value)}`)
  const level = entry.level.padEnd(5)
  const painted =
    entry.level === 'error' || entry.level === 'fatal'
      ? terminal.paint('red', level)
      : entry.level === 'warn'
        ? terminal.paint('yellow', level)
        : level
  const time = terminal.paint('dim', entry.time.slice(11, 23))
  const facts = fields.length === 0 ? '' : `  ${terminal.paint('dim', fields.join(' '))}`
  return `${time} ${painted} ${printable(entry.msg)}${facts}`
}

type LogEntry = { readonly level: string; readonly time: string; readonly msg: string }

function parseEntry(line: string): LogEntry | null {
  if (!line.startsWith('{')) return null
  try {
    const value = JSON.parse(line) as Partial<Record<keyof LogEntry, unknown>>
    const isEntry =
      typeof value.level === 'string' && typeof value.time === 'string' && typeof value.msg === 'string'
    return isEntry ? (value as LogEntry) : null
  } catch {
    return null
  }
}

function fieldText(value: unknown): string {
  const text = typeof value === 'string' ? value : safeJson(value, 0)
  return printable(/\s/.test(text) && typeof value === 'string' ? safeJson(text, 0) : text, 500)
}
