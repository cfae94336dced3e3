/**
 * Tables of a comparison for a terminal: a row per cell, a few figures side by side, medians with their ranges.
 */
import type { Contender } from './contenders.ts'
import { type CellRecord, type ComparisonRecord, number, spreadOf } from './record.ts'
import type { Shown } from './workload.ts'

const figuresSideBySide = 3

/** Aligns columns; the first to the left, the others to the right. */
export function align(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  return rows.map((row) =>
    row
      .map((text, column) => (column === 0 ? text.padEnd(widths[column]!) : text.padStart(widths[column]!)))
      .join('  ')
      .trimEnd(),
  )
}

/** What each system keeps: without it the figures cannot be compared. */
export function keepsTable(contenders: readonly Contender[]): string[] {
  return align([
    ['', 'history', 'leases', 'retries'],
    ...contenders.map(({ label, keeps }) => [label, keeps.history, keeps.leases, keeps.retries]),
  ])
}

function valueOf(cell: CellRecord, { figure }: Shown): string {
  const spread = spreadOf(cell, figure)
  if (spread === null) return cell.failures.length > 0 ? 'failed' : '–'
  if (cell.samples.length === 1) return number(spread.median)
  return `${number(spread.median)} (${number(spread.lowest)} – ${number(spread.highest)})`
}

/** How many times better the first cell of the same setting is, as text. */
function ratioOf(first: CellRecord, cell: CellRecord, { figure, better }: Shown): string {
  const [own, other] = [spreadOf(first, figure), spreadOf(cell, figure)]
  if (first === cell || own === null || other === null || own.median === 0 || other.median === 0) return ''
  return `×${number(better === 'more' ? own.median / other.median : other.median / own.median)}`
}

function tasksOf({ parameters }: CellRecord): string {
  const tasks = parameters['tasks'] ?? parameters['rows']
  return typeof tasks === 'number' ? number(tasks) : ''
}

/** The tables of a comparison, with its title. */
export function comparisonTable({ id, title, shown, cells }: ComparisonRecord): string[] {
  const repeats = Math.max(...cells.map(({ samples }) => samples.length))
  const lines = [`${id}  ${title}; ${repeats > 1 ? `median of ${repeats} (lowest – highest)` : 'one run'}`]
  const firstOf = (cell: CellRecord) => cells.find(({ setting }) => setting === cell.setting)!
  const several = cells.some((cell) => firstOf(cell) !== cell)
  const present = shown.filter(({ figure }) => cells.some((cell) => spreadOf(cell, figure) !== null))
  for (let at = 0; at < Math.max(1, present.length); at += figuresSideBySide) {
    const part = present.slice(at, at + figuresSideBySide)
    const heads = part.flatMap(({ unit }) => (several ? [unit, ''] : [unit]))
    lines.push(
      ...align([
        ['', 'tasks', ...heads],
        ...cells.map((cell) => [
          cell.setting === null ? cell.label : `${cell.label}, ${cell.setting}`,
          tasksOf(cell),
          ...part.flatMap((one) =>
            several ? [valueOf(cell, one), ratioOf(firstOf(cell), cell, one)] : [valueOf(cell, one)],
          ),
        ]),
      ]).map((line) => `  ${line}`),
      '',
    )
  }
  if (several) lines.push(`  ×N: ${cells[0]!.label} is N times better.`)
  for (const { label, failures } of cells)
    for (const failure of failures) lines.push(`  ${label} failed: ${failure}`)
  return lines
}
