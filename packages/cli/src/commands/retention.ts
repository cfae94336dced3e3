/**
 * `leasehold retention`: how long history is kept, and what would go.
 *
 * Invariant: nothing is dropped here. `set` changes settings only, `plan` looks; dropping is the duty `retention`
 * (housekeeping.ts).
 */
import {
  type PlannedRange,
  type Retention,
  readRetention,
  retentionPlan,
  setRetention,
} from '@leasehold/queue'
import type { Command } from 'commander'
import { type Context, show, withDatabase } from '../context.ts'
import { usageError } from '../failure.ts'
import { wholeNumber } from '../options.ts'
import { type Cell, facts, table } from '../terminal/table.ts'
import { duration, moment, parseDuration } from '../terminal/time.ts'

interface SetOptions {
  readonly tasks?: string
  readonly logs?: string
  readonly rotateEvery?: string
  readonly rangeIds?: number | 'auto'
  readonly workers?: string
  readonly incidents?: string
  readonly monitors?: string
  readonly firings?: string
  readonly json?: boolean
}

/** Adds the command with its parts to the program. */
export function addRetention(program: Command, context: Context): void {
  const group = program.command('retention').description('how long history is kept, and what would go')
  group
    .command('show', { isDefault: true })
    .description('the settings')
    .option('--json', 'print one JSON document')
    .action((options: { json?: boolean }) =>
      withDatabase(context, async ({ read }) =>
        showSettings(context, options.json, await read(readRetention)),
      ),
    )
  group
    .command('plan')
    .description(
      'which ranges of ids would go now, how much that is, and why the others stay; changes nothing',
    )
    .option('--json', 'print one JSON document')
    .action((options: { json?: boolean }) => plan(context, options.json))
  group
    .command('set')
    .description('change settings, as the owner of the schema; what is not named stays')
    .option('--tasks <time>', 'ended tasks with all that is theirs: 30d, forever')
    .option(
      '--logs <time>',
      'log lines and progress, where they are to go earlier: 7d, tasks (as long as these)',
    )
    .option('--rotate-every <time>', 'how long a range takes new tasks: 1d, auto (a sixth of --tasks)')
    .option('--range-ids <n>', 'ids of a range: 1000 to 1000000000, auto (by the rate)', (text) =>
      text === 'auto' ? text : wholeNumber(1_000, 1_000_000_000)(text),
    )
    .option('--workers <time>', 'workers that have ended')
    .option('--incidents <time>', 'resolved incidents, and alerts')
    .option('--monitors <time>', 'monitors that look no more, and gaps')
    .option('--firings <time>', 'firings of schedules')
    .option('--json', 'print one JSON document')
    .action((options: SetOptions) => set(context, options))
}

/** A length of time, or null for the word that stands for none. */
function timeOr(text: string, option: string, word: string): number | null {
  return text === word ? null : parseDuration(text, option)
}

function set(context: Context, options: SetOptions): Promise<void> {
  const changes: Partial<Retention> = {
    ...(options.tasks !== undefined && { keepTasksMs: timeOr(options.tasks, '--tasks', 'forever') }),
    ...(options.logs !== undefined && { keepLogsMs: timeOr(options.logs, '--logs', 'tasks') }),
    ...(options.rotateEvery !== undefined && {
      rotateEveryMs: timeOr(options.rotateEvery, '--rotate-every', 'auto'),
    }),
    ...(options.rangeIds !== undefined && {
      rangeIds: options.rangeIds === 'auto' ? null : options.rangeIds,
    }),
    ...(options.workers !== undefined && { keepWorkersMs: parseDuration(options.workers, '--workers') }),
    ...(options.incidents !== undefined && {
      keepIncidentsMs: parseDuration(options.incidents, '--incidents'),
    }),
    ...(options.monitors !== undefined && { keepMonitorsMs: parseDuration(options.monitors, '--monitors') }),
    ...(options.firings !== undefined && { keepFiringsMs: parseDuration(options.firings, '--firings') }),
  }
  if (Object.keys(changes).length === 0) {
    throw usageError('Nothing to set', 'name a setting: npx leasehold retention set --tasks 14d')
  }
  return withDatabase(context, async ({ pool }) =>
    showSettings(context, options.json, await setRetention(pool, changes)),
  )
}

function showSettings(context: Context, json: boolean | undefined, settings: Retention): void {
  show(context, json, settings, () => {
    const { keepTasksMs, keepLogsMs, rotateEveryMs, rangeIds } = settings
    const sixth = keepTasksMs === null ? 'when it is full' : duration(Math.max(keepTasksMs / 6, 60_000))
    return facts(context.terminal, [
      ['ended tasks', keepTasksMs === null ? 'for ever' : duration(keepTasksMs)],
      ['log lines, progress', keepLogsMs === null ? 'as long as their tasks' : duration(keepLogsMs)],
      ['new range after', rotateEveryMs === null ? `${sixth} (auto)` : duration(rotateEveryMs)],
      ['ids of a range', rangeIds === null ? 'by the rate (auto)' : String(rangeIds)],
      ['ended workers', duration(settings.keepWorkersMs)],
      ['incidents, alerts', duration(settings.keepIncidentsMs)],
      ['monitors, gaps', duration(settings.keepMonitorsMs)],
      ['schedule firings', duration(settings.keepFiringsMs)],
    ])
  })
}

function plan(context: Context, json: boolean | undefined): Promise<void> {
  return withDatabase(context, async ({ read }) => {
    const ranges = await read(retentionPlan)
    const going = ranges.filter((range) => range.action === 'drop')
    const totals = {
      ranges: going.length,
      tasks: going.reduce((sum, range) => sum + range.tasks, 0),
      bytes: going.reduce((sum, range) => sum + range.bytes, 0),
    }
    show(context, json, { drop: totals, ranges }, () => {
      const titles = ['IDS FROM', 'TO', 'CLOSED', 'TASKS', 'SIZE', 'ACTION', 'WHY']
      const verdict =
        going.length === 0
          ? 'Nothing would go now.'
          : `Would go now: ${going.length} ranges, about ${totals.tasks} tasks, ${size(totals.bytes)}. Do it: npx leasehold housekeeping run retention`
      return `${table(
        context.terminal,
        titles,
        ranges.map((range) => planRow(context, range)),
      )}\n\n${verdict}`
    })
  })
}

function planRow({ terminal }: Context, range: PlannedRange): Cell[] {
  return [
    range.firstId,
    range.endId,
    range.closedAt === null ? null : moment(range.closedAt),
    `~${range.tasks}`,
    size(range.bytes),
    { shown: range.action === 'keep' ? range.action : terminal.paint('yellow', range.action) },
    range.reason,
  ]
}

const sizes = ['B', 'kB', 'MB', 'GB', 'TB'] as const

function size(bytes: number): string {
  const step = bytes < 1 ? 0 : Math.min(sizes.length - 1, Math.floor(Math.log2(bytes) / 10))
  const value = bytes / 1024 ** step
  return `${value >= 10 || step === 0 ? Math.round(value) : value.toFixed(1)} ${sizes[step]}`
}
