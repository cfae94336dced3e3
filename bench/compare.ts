/**
 * Measures a comparison: all cells once, then all once more, and so on.
 *
 * One after the other on one server; or, where what one system does to itself is asked for, its cells at the same time,
 * each on a server of its own. A machine whose speed changes within minutes changes it for all of them then.
 */
import { type CellRecord, type ComparisonRecord, number } from './record.ts'
import { Meeting } from './meeting.ts'
import { runCell } from './run-cell.ts'
import { type BenchServer, startServer } from './server.ts'
import type { Cell, Comparison, Measurement, Workload } from './workload.ts'

/** What is to be measured, and on what. */
export interface Comparing {
  readonly server: BenchServer
  readonly workload: Workload
  readonly comparison: Comparison
  readonly repeats: number
  readonly progress: (line: string) => void
  readonly interrupted: AbortSignal
}

/** So a figure or a course is called that was divided by that of the first cell, measured at the same time. */
const ofFirst = 'OfFirst'
const mostStretches = 60

/** Measures all cells; one that fails is noted and the others go on. */
export async function compare(comparing: Comparing): Promise<Omit<ComparisonRecord, 'commit'>> {
  const { server, workload, comparison, repeats, interrupted } = comparing
  const at = new Date().toISOString()
  const cells = comparison.cells.map((cell) => recordOf(cell))
  const turns = turnsOf(comparison)
  const servers = [server]
  try {
    while (servers.length < Math.max(...turns.map((turn) => turn.length))) servers.push(await startServer())
    for (let round = 1; round <= repeats; round++) {
      for (const turn of turns) {
        if (interrupted.aborted) break
        const meeting = new Meeting(turn.length)
        const measured = await Promise.all(
          turn.map((i, nr) =>
            measureCell(comparing, servers[nr]!, comparison.cells[i]!, cells[i]!, {
              name: `${round}/${repeats}`,
              meeting,
            }),
          ),
        )
        for (const [nr, i] of turn.entries()) {
          const sample = measured[nr]!
          if (sample !== null)
            cells[i]!.samples.push(comparison.together ? beside(sample, measured[0]!) : sample)
        }
      }
    }
  } finally {
    for (const own of servers.slice(1)) await own.stop()
  }
  return {
    id: workload.id,
    workload: workload.name,
    title: comparison.title,
    at,
    shown: workload.shown,
    cells,
  }
}

function recordOf({ contender, setting, label, parameters }: Cell): CellRecord {
  return {
    system: contender.name,
    label: label ?? contender.label,
    short: label ?? contender.short,
    kind: label === undefined ? contender.kind : 'control',
    setting: setting ?? null,
    parameters,
    samples: [],
    failures: [],
  }
}

/** Which cells are measured at the same time, by number. */
function turnsOf({ cells, together }: Comparison): number[][] {
  const numbers = cells.map((_, i) => i)
  if (!together) return numbers.map((i) => [i])
  return [...Map.groupBy(numbers, (i) => cells[i]!.contender).values()]
}

async function measureCell(
  { workload, progress, interrupted }: Comparing,
  server: BenchServer,
  cell: Cell,
  record: CellRecord,
  round: { readonly name: string; readonly meeting: Meeting },
): Promise<Measurement | null> {
  const name = `${workload.id} ${round.name}  ${record.label}${record.setting === null ? '' : `, ${record.setting}`}`
  const began = performance.now()
  const party = round.meeting.join()
  try {
    const measurement = await runCell(server, workload, cell, limitOf(cell), interrupted, party)
    const { figure, unit } = workload.shown[0]!
    const took = `${number((performance.now() - began) / 1000)} s`
    progress(`${name}: ${number(measurement.figures[figure] ?? Number.NaN)} ${unit} (${took})`)
    return measurement
  } catch (error) {
    record.failures.push((error as Error).message)
    progress(`${name}: failed: ${(error as Error).message}`)
    return null
  } finally {
    party.leave()
  }
}

/** A cell is ended when it takes several times as long as it should. */
function limitOf({ parameters }: Cell): number {
  const seconds = Number(parameters['seconds'] ?? 0)
  return (1800 + seconds * 6) * 1000
}

/** The measurement with each figure and course also as its part of the first one's. */
export function beside(one: Measurement, first: Measurement | null): Measurement {
  if (first === null) return one
  const figures = { ...one.figures }
  for (const [name, value] of Object.entries(one.figures)) {
    const base = first.figures[name]
    if (base !== undefined && base !== 0) figures[`${name}${ofFirst}`] = value / base
  }
  const series = { ...one.series }
  for (const [name, course] of Object.entries(one.series ?? {})) {
    const base = first.series?.[name]
    if (base !== undefined) series[`${name}${ofFirst}`] = quotient(course, base)
  }
  return { figures, series }
}

type Course = readonly (readonly [number, number])[]

/** Stretch by stretch: single seconds would divide by what happened to be little. */
function quotient(one: Course, first: Course): [number, number][] {
  const length = Math.min(one.length, first.length)
  const stride = Math.max(1, Math.ceil(length / mostStretches))
  const sum = (course: Course, from: number) =>
    course.slice(from, from + stride).reduce((total, [, value]) => total + value, 0)
  const quotients: [number, number][] = []
  for (let from = 0; from + stride <= length; from += stride) {
    const base = sum(first, from)
    if (base > 0) quotients.push([one[from + stride - 1]![0], sum(one, from) / base])
  }
  return quotients
}
