/**
 * What a run leaves behind: every sample, with the settings it was taken under. Tables and plots are made from it.
 */
import type { Contender } from './contenders.ts'
import type { Machine } from './machine.ts'
import type { Measurement, Parameters, Shown } from './workload.ts'

/** All samples of one cell. */
export interface CellRecord {
  readonly system: string
  readonly label: string
  readonly short: string
  readonly kind: Contender['kind']
  readonly setting: string | null
  readonly parameters: Parameters
  readonly samples: Measurement[]
  readonly failures: string[]
}

/** A comparison with its cells. */
export interface ComparisonRecord {
  readonly id: string
  readonly workload: string
  readonly title: string
  /** When it began, ISO, and which commit was measured. */
  readonly at: string
  readonly commit: string
  readonly shown: readonly Shown[]
  readonly cells: readonly CellRecord[]
}

/** A run. */
export interface RunRecord {
  readonly at: string
  readonly size: string
  readonly machine: Machine
  readonly settings: Readonly<Record<string, string>>
  readonly comparisons: ComparisonRecord[]
}

/** Median, lowest and highest of a figure; null when no sample has it. */
export interface Spread {
  readonly median: number
  readonly lowest: number
  readonly highest: number
}

export function spreadOf(cell: CellRecord, figure: string): Spread | null {
  const values = cell.samples
    .map(({ figures }) => figures[figure])
    .filter((value): value is number => value !== undefined && Number.isFinite(value))
    .toSorted((a, b) => a - b)
  if (values.length === 0) return null
  const middle = values.length >> 1
  const median = values.length % 2 === 1 ? values[middle]! : (values[middle - 1]! + values[middle]!) / 2
  return { median, lowest: values[0]!, highest: values.at(-1)! }
}

/** Three significant digits below 100, whole numbers above. */
export function number(value: number): string {
  if (value === 0) return '0'
  return Math.abs(value) >= 100
    ? Math.round(value).toLocaleString('en')
    : String(Number(value.toPrecision(3)))
}
