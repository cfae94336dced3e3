/**
 * Which plots a run makes: one for each comparison where a picture says more than its table.
 */
import { type Axes, type Bar, bars, type Line, lines } from './plot.ts'
import { type CellRecord, type ComparisonRecord, number, type RunRecord, spreadOf } from './record.ts'

function subtitleOf(run: RunRecord, { cells, commit }: ComparisonRecord): string {
  const repeats = Math.max(...cells.map(({ samples }) => samples.length))
  const { machine, settings } = run
  const server = `PostgreSQL ${(settings['server_version'] ?? '').split(' ')[0]}, ${machine.cores} cores, fsync ${settings['fsync']}`
  return `${server}; ${repeats === 1 ? 'one run' : `median of ${repeats} runs, range as whisker or band`}; commit ${commit}`
}

/** Bars of one figure, one per cell that has it, the best first. */
function barsOf(run: RunRecord, comparison: ComparisonRecord, figure: string, title: string): string | null {
  const shown = comparison.shown.find((one) => one.figure === figure)!
  const all = comparison.cells.flatMap((cell): Bar[] => {
    const spread = spreadOf(cell, figure)
    if (spread === null) return []
    const tasks = cell.parameters['tasks']
    const note = cell.setting ?? (typeof tasks === 'number' ? `${number(tasks)} tasks` : '')
    return [{ label: cell.short, note, emphasis: cell.kind, ...spread }]
  })
  if (all.length === 0) return null
  // Pairs of ways stay together; rivals are ranked.
  if (comparison.cells.every(({ setting }) => setting === null))
    all.sort((a, b) => (shown.better === 'more' ? b.median - a.median : a.median - b.median))
  return bars(title, subtitleOf(run, comparison), shown.unit, all)
}

/** Lines of one figure over a parameter, one per system. */
function linesOver(
  run: RunRecord,
  comparison: ComparisonRecord,
  { figure, over, title, axes }: { figure: string; over: string; title: string; axes: Axes },
): string | null {
  const bySystem = Map.groupBy(comparison.cells, ({ system }) => system)
  const all = [...bySystem.values()].flatMap((cells): Line[] => {
    const points = cells.flatMap((cell) => {
      const spread = spreadOf(cell, figure)
      return spread === null ? [] : [{ x: Number(cell.parameters[over]), ...spread }]
    })
    if (points.length === 0) return []
    return [
      { label: cells[0]!.short, emphasis: cells[0]!.kind, points: points.toSorted((a, b) => a.x - b.x) },
    ]
  })
  return all.length === 0 ? null : lines(title, subtitleOf(run, comparison), axes, all)
}

/** The median of a course over the samples, averaged over about 60 stretches. */
function courseOf(
  cell: CellRecord,
  name: string,
): { x: number; median: number; lowest: number; highest: number }[] {
  const courses = cell.samples.flatMap(({ series }) => (series?.[name] === undefined ? [] : [series[name]]))
  const length = Math.min(...courses.map((course) => course.length))
  if (courses.length === 0 || length === 0) return []
  const stride = Math.max(1, Math.floor(length / 60))
  const points = []
  for (let at = 0; at + stride <= length; at += stride) {
    const means = courses
      .map((course) => course.slice(at, at + stride).reduce((sum, [, value]) => sum + value, 0) / stride)
      .toSorted((a, b) => a - b)
    const x = courses[0]![at + stride - 1]![0]
    points.push({ x, median: means[means.length >> 1]!, lowest: means[0]!, highest: means.at(-1)! })
  }
  return points
}

/** The rate while something is held, in percent of the same system's rate at that time while nothing is. */
function disturbedPlot(run: RunRecord, comparison: ComparisonRecord, held: string): string | null {
  const all = comparison.cells
    .filter(({ setting }) => setting === held)
    .map((cell) => ({
      label: cell.short,
      emphasis: cell.kind,
      points: courseOf(cell, 'rateOfFirst').map(({ x, median, lowest, highest }) => ({
        x,
        median: 100 * median,
        lowest: 100 * lowest,
        highest: 100 * highest,
      })),
    }))
    .filter(({ points }) => points.length > 0)
  if (all.length === 0) return null
  const axes = { x: 'seconds', y: '% of its own undisturbed rate' }
  return lines(`What is left of the rate: ${held}`, subtitleOf(run, comparison), axes, all)
}

function soakPlot(run: RunRecord, comparison: ComparisonRecord): string | null {
  const cell = comparison.cells[0]!
  const all = [
    { label: 'database, MiB', emphasis: 'own' as const, points: courseOf(cell, 'databaseMib') },
    { label: 'worker process, MiB', emphasis: 'peer' as const, points: courseOf(cell, 'nodeMib') },
  ].filter(({ points }) => points.length > 0)
  if (all.length === 0) return null
  return lines(
    'A long steady load with retention on',
    subtitleOf(run, comparison),
    { x: 'seconds', y: 'MiB' },
    all,
  )
}

type Plotter = (run: RunRecord, comparison: ComparisonRecord) => Record<string, string | null>

const plotters: Record<string, Plotter> = {
  drain: (run, comparison) => {
    const { concurrency, tasks } = comparison.cells[0]!.parameters
    const name = `drain-${concurrency}${tasks === 1_000_000 ? '-million' : ''}`
    return { [name]: barsOf(run, comparison, 'tasksPerSecond', `Tasks per second: ${comparison.title}`) }
  },
  submit: (run, comparison) => {
    const name = `submit-${comparison.title.replaceAll(/[^a-z]+/g, '-')}`
    return { [name]: barsOf(run, comparison, 'rowsPerSecond', `Rows taken per second: ${comparison.title}`) }
  },
  steady: (run, comparison) => ({
    'latency-idle': barsOf(run, comparison, 'idleP50Ms', 'Submission to handler, idle, median'),
    'latency-half': barsOf(
      run,
      comparison,
      'halfP99Ms',
      'Submission to handler at 50 % of capacity, 99th percentile',
    ),
  }),
  backlog: (run, comparison) => {
    const over = (figure: string, title: string, y: string) =>
      linesOver(run, comparison, {
        figure,
        over: 'backlog',
        title,
        axes: { x: 'tasks waiting', y, logX: true, logY: true },
      })
    return {
      'backlog-claim': over('claimMs', 'Time of a claim with tasks waiting behind it', 'ms per claim'),
      'backlog-buffers': over(
        'buffersPerTask',
        'Buffers per task with tasks waiting behind it',
        'buffers per task',
      ),
    }
  },
  disturbed: (run, comparison) => {
    const name = comparison.cells[0]!.parameters['seconds'] === 1800 ? 'disturbed-half-hour' : 'disturbed'
    return {
      [`${name}-snapshot`]: disturbedPlot(run, comparison, 'old snapshot held'),
      [`${name}-writer`]: disturbedPlot(run, comparison, 'idle writer held'),
    }
  },
  scale: (run, comparison) => {
    const length = comparison.title.endsWith('long backlog') ? '-long' : ''
    const plot = linesOver(run, comparison, {
      figure: 'cpuSecondsPer1000',
      over: 'workers',
      title: `CPU per 1,000 tasks, ${comparison.title}`,
      axes: { x: 'workers', y: 's CPU per 1,000 tasks', logX: true, logY: true },
    })
    return { [`scale-${comparison.cells[0]!.parameters['as']}${length}`]: plot }
  },
  mixed: (run, comparison) => ({
    mixed: barsOf(run, comparison, 'cpuSecondsPer1000', 'CPU per 1,000 tasks of mixed work'),
  }),
  soak: (run, comparison) => ({ soak: soakPlot(run, comparison) }),
}

/** SVG texts by name, of everything measured so far. */
export function plotsOf(run: RunRecord): Map<string, string> {
  const found = new Map<string, string>()
  for (const comparison of run.comparisons) {
    for (const [name, content] of Object.entries(plotters[comparison.workload]?.(run, comparison) ?? {}))
      if (content !== null) found.set(name, content)
  }
  return found
}
