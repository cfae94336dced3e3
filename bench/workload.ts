/**
 * What a workload is: which cells it consists of, what is shown of each, and how a cell is measured.
 *
 * Planning happens in the parent, which loads no system; `measure` runs in a process of its own with a fresh database.
 */
import type { Client } from 'pg'
import type { Contender } from './contenders.ts'
import type { System } from './system.ts'

/** Figures by name; what was not measured is left out. */
export type Figures = Record<string, number>

/** What a cell answers with. */
export interface Measurement {
  readonly figures: Figures
  /** Courses over time, for plots: pairs of second and value. */
  readonly series?: Record<string, readonly (readonly [number, number])[]>
}

/** Numbers and words of a cell; they go to its process as JSON. */
export type Parameters = Record<string, number | string>

/** One thing that is measured again and again. */
export interface Cell {
  readonly contender: Contender
  readonly parameters: Parameters
  /** Beside the contender's label, where a comparison has several cells of one system. */
  readonly setting?: string
  /** Instead of the contender's label, for what is not quite that system. */
  readonly label?: string
}

/** Cells that stand in one table, measured in turn: first all cells once, then all once more. */
export interface Comparison {
  readonly title: string
  readonly cells: readonly Cell[]
  /** How often; the run's own number unless a single run takes very long. */
  readonly repeats?: number
  /**
   * The cells of one system are measured at the same time, each on a server of its own. Figures and courses then also come
   * as parts of the first cell's, with `OfFirst` behind their names.
   */
  readonly together?: boolean
}

/** A figure as it is shown. */
export interface Shown {
  readonly figure: string
  readonly unit: string
  /** Whether more or less of it is better: decides how a ratio is read. */
  readonly better: 'more' | 'less'
}

/** How large a run is. */
export interface Sizes {
  readonly size: 'quick' | 'default' | 'full'
  /** Systems to measure, in the order of the tables. */
  readonly contenders: readonly Contender[]
}

/** What a cell's process has. */
export interface Bench {
  readonly contender: Contender
  readonly system: System
  readonly batch: number
  readonly claimStatement: string
  readonly url: string
  /** For the measuring itself. */
  readonly client: Client
  readonly postmaster: number
  /** Resolves when all cells that are measured at the same time have come so far. Once. */
  meet(): Promise<void>
}

export interface Workload {
  /** W1 … as the tables call it. */
  readonly id: string
  readonly name: string
  /** One line for --help. */
  readonly about: string
  readonly shown: readonly Shown[]
  plan(sizes: Sizes): Comparison[]
  measure(bench: Bench, parameters: Parameters): Promise<Measurement>
}

/** A parameter that has to be a number. */
export function numberOf(parameters: Parameters, name: string): number {
  const value = parameters[name]
  if (typeof value === 'number') return value
  throw new Error(`the parameter ${name} is missing`)
}

/** One of three values by the size of the run. */
export function bySize<T>(size: Sizes['size'], quick: T, normal: T, full: T): T {
  return size === 'quick' ? quick : size === 'full' ? full : normal
}
