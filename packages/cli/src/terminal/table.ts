/**
 * Tables for people: fitted to the width of a terminal, complete everywhere else.
 *
 * Invariant: whatever is stored is escaped before it is laid out (printable.ts), so a row is always one line and plain
 * output can be cut into columns by other programs; nothing is shortened there. Programs should ask for --json.
 */
import Table from 'cli-table3'
import { printable } from './printable.ts'
import type { Terminal } from './terminal.ts'

/** What a cell may be: text is escaped, null is shown as a dash, `{ shown }` was coloured by us and is taken as it is. */
export type Cell = string | number | null | { readonly shown: string }

const bare = {
  top: '',
  'top-mid': '',
  'top-left': '',
  'top-right': '',
  bottom: '',
  'bottom-mid': '',
  'bottom-left': '',
  'bottom-right': '',
  left: '',
  'left-mid': '',
  mid: '',
  'mid-mid': '',
  right: '',
  'right-mid': '',
  middle: '  ',
}

/** Lays out rows below their titles. Numbers are aligned to the right. */
export function table(
  terminal: Terminal,
  titles: readonly string[],
  rows: readonly (readonly Cell[])[],
): string {
  const texts = rows.map((row) => row.map((cell) => show(terminal, cell)))
  const colAligns = titles.map((_, column) =>
    rows.some((row) => typeof row[column] === 'number') ? ('right' as const) : ('left' as const),
  )
  const colWidths = terminal.isTty ? fit(terminal.columns, titles, texts) : []
  const laidOut = new Table({
    head: titles.map((title) => terminal.paint('bold', title)),
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': 0, compact: true },
    chars: bare,
    colAligns,
    ...(colWidths.length > 0 && { colWidths }),
    truncate: '…',
    wordWrap: false,
  })
  laidOut.push(...texts)
  const lines = laidOut
    .toString()
    .split('\n')
    .map((line) => line.trimEnd())
  return lines.filter((line) => line !== '').join('\n')
}

/** Two columns: what, and what it is. */
export function facts(terminal: Terminal, rows: readonly (readonly [name: string, value: Cell])[]): string {
  const width = Math.max(0, ...rows.map(([name]) => name.length))
  return rows
    .map(([name, value]) => `${terminal.paint('dim', name.padEnd(width))}  ${show(terminal, value)}`)
    .join('\n')
}

function show(terminal: Terminal, cell: Cell | undefined): string {
  if (cell === null || cell === undefined || cell === '') return '-'
  if (typeof cell === 'object') return cell.shown
  if (typeof cell === 'string') return printable(cell)
  return terminal.isTty ? cell.toLocaleString('en-US') : String(cell)
}

/** Widths that fit the terminal: the widest columns give first, none below 8. Empty when all fits as it is. */
function fit(columns: number, titles: readonly string[], rows: readonly (readonly string[])[]): number[] {
  const widths = titles.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => visibleLength(row[column] ?? ''))),
  )
  const gaps = (titles.length - 1) * 2
  let excess = widths.reduce((sum, width) => sum + width, gaps) - columns
  if (excess <= 0) return []
  while (excess > 0) {
    const widest = widths.indexOf(Math.max(...widths))
    if ((widths[widest] ?? 0) <= 8) break
    widths[widest] = (widths[widest] ?? 0) - 1
    excess -= 1
  }
  return widths
}

function visibleLength(text: string): number {
  // oxlint-disable-next-line no-control-regex -- our own colours
  return text.replaceAll(/\u001B\[[0-9;]*m/g, '').length
}
