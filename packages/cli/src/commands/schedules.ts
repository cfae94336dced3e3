/**
 * `leasehold schedules`: look at schedules, preview them, and what became of their slots. Changing is schedule-verbs.ts.
 *
 * Moments are shown in the schedule's zone and in UTC; what a clock change does to one is said beside it.
 */
import {
  type ScheduleHealth,
  databaseClock,
  listFirings,
  listSchedulers,
  listSchedules,
} from '@leasehold/queue'
import { type Timing, localTime, nextFirings, readTiming, remarkOn } from '@leasehold/schedules'
import type { Command } from 'commander'
import { type Context, show, withDatabase } from '../context.ts'
import { usageError } from '../failure.ts'
import { wholeNumber } from '../options.ts'
import { type Cell, table } from '../terminal/table.ts'
import type { Terminal } from '../terminal/terminal.ts'
import { duration, moment, parseDuration, parseMoment, relative } from '../terminal/time.ts'
import { scheduleNotFound, timingOption } from './schedule-refusals.ts'
import { addScheduleVerbs } from './schedule-verbs.ts'

/** Adds the command with its parts to the program. */
export function addSchedules(program: Command, context: Context): void {
  const group = program
    .command('schedules')
    .description('what is submitted when: list, preview, change, fire')
  group
    .command('list', { isDefault: true })
    .description('every schedule: its last slot, its next one, what is wrong')
    .option('--json', 'print one JSON document')
    .action((options: { json?: boolean }) => list(context, options.json))
  group
    .command('next')
    .description('the next firings: of one schedule, of all, or of an expression that is nowhere yet')
    .argument('[name]')
    .option('--count <n>', 'how many', wholeNumber(1, 1_000), 10)
    .option('--after <moment>', 'from when on (default: now)')
    .option('--cron <expression>', 'instead of a name: minute hour day month weekday')
    .option('--every <time>', 'instead of a name: 15min, 6h')
    .option('--zone <zone>', 'with --cron: an IANA name', 'UTC')
    .option('--json', 'print one JSON document')
    .action((name: string | undefined, options: NextOptions) => next(context, name, options))
  group
    .command('history')
    .description('what became of slots, the latest first')
    .argument('[name]')
    .option('--limit <n>', 'at most so many rows', wholeNumber(1, 10_000), 30)
    .option('--json', 'print one JSON document')
    .action((name: string | undefined, options: { limit: number; json?: boolean }) =>
      history(context, name, options),
    )
  addScheduleVerbs(group, context)
}

/** `30 2 * * *`, or `every 15 min`. */
export function timingText({ cron, everyMs }: Pick<ScheduleHealth, 'cron' | 'everyMs'>): string {
  return cron ?? `every ${duration(everyMs ?? 0)}`
}

async function list(context: Context, json: boolean | undefined): Promise<void> {
  const { terminal } = context
  await withDatabase(context, async ({ read }) => {
    const [schedules, schedulers, now] = await read(async (tx) => [
      await listSchedules(tx),
      await listSchedulers(tx),
      await databaseClock(tx),
    ])
    show(context, json, { schedules, schedulers }, () => {
      if (schedules.length === 0)
        return 'There is no schedule. Make one: npx leasehold schedules add NAME --stage STAGE --cron "0 6 * * *"'
      const live = schedulers.filter(({ status }) => status === 'live').length
      const waiting = schedules.filter(({ enabled, firedBy }) => enabled && firedBy === 'scheduler')
      const fires = live > 0 || waiting.length === 0
      const byTimers = schedules.filter(({ enabled, firedBy }) => enabled && firedBy === 'timer').length
      const timers = byTimers === 0 ? '' : `; timers are to fire ${byTimers}`
      const count = `${live === 1 ? '1 scheduler lives' : `${live} schedulers live`}${timers}`
      const note = fires
        ? count
        : terminal.paint('red', 'no scheduler lives: nothing fires. Start one: npx leasehold scheduler')
      const titles = ['SCHEDULE', 'STATUS', 'TIMING', 'ZONE', 'STAGE', 'LAST SLOT', 'OUTCOME', 'NEXT', 'IN']
      const rows = schedules.map((one) => row(terminal, one, now))
      const problems = schedules
        .filter(({ problem }) => problem !== null)
        .map(({ name, problem }) => [name, problem] as Cell[])
      const told = problems.length === 0 ? '' : `\n\n${table(terminal, ['SCHEDULE', 'PROBLEM'], problems)}`
      return `${table(terminal, titles, rows)}${told}\n\n${note}`
    })
  })
}

function row(terminal: Terminal, one: ScheduleHealth, now: Date): Cell[] {
  const { lastSlot, lastOutcome, lastReason, lastTaskState, nextAt } = one
  const outcome = lastOutcome === 'fired' ? lastTaskState : lastReason && `skipped: ${lastReason}`
  return [
    one.name,
    { shown: statusText(terminal, one.status) },
    timingText(one),
    one.zone,
    one.stage,
    lastSlot && moment(lastSlot),
    outcome,
    nextAt && moment(nextAt),
    nextAt && relative(now.getTime() - nextAt.getTime()),
  ]
}

function statusText(terminal: Terminal, status: ScheduleHealth['status']): string {
  if (['late', 'broken', 'failed', 'skipped'].includes(status)) return terminal.paint('red', status)
  return status === 'ok' ? terminal.paint('green', status) : terminal.paint('yellow', status)
}

interface NextOptions {
  readonly count: number
  readonly after?: string
  readonly cron?: string
  readonly every?: string
  readonly zone: string
  readonly json?: boolean
}

interface Preview {
  readonly schedule: string
  readonly slot: Date
  readonly local: string
  readonly zone: string
  readonly remark: string | null
}

async function next(context: Context, name: string | undefined, options: NextOptions): Promise<void> {
  const { cron, every, count, json } = options
  if (cron !== undefined || every !== undefined) {
    if (name !== undefined) throw usageError('a name and a timing were given', 'give one of them')
    const after = options.after === undefined ? new Date() : parseMoment(options.after, '--after', new Date())
    const everyMs = every === undefined ? null : parseDuration(every, '--every')
    const timing = timingOption({ cron: cron ?? null, everyMs, zone: options.zone })
    return showPreviews(context, json, previewsOf('-', timing, after, count), [])
  }
  await withDatabase(context, async ({ pool }) => {
    const now = await databaseClock(pool)
    const after = options.after === undefined ? now : parseMoment(options.after, '--after', now)
    const schedules = await listSchedules(pool, name === undefined ? {} : { name })
    if (name !== undefined && schedules.length === 0) throw scheduleNotFound(name)
    const previews: Preview[] = []
    const broken: string[] = []
    for (const one of schedules.filter(({ enabled }) => enabled || name !== undefined)) {
      try {
        previews.push(...previewsOf(one.name, readTiming(one), after, count))
      } catch (error) {
        if (name !== undefined) throw error
        broken.push(one.name)
      }
    }
    previews.sort((a, b) => a.slot.getTime() - b.slot.getTime())
    showPreviews(context, json, previews.slice(0, count), broken)
  })
}

function previewsOf(schedule: string, timing: Timing, after: Date, count: number): Preview[] {
  const { zone } = timing
  return nextFirings(timing, after, count).map((slot) => ({
    schedule,
    slot,
    local: localTime(zone, slot),
    zone,
    remark: remarkOn(timing, slot),
  }))
}

function showPreviews(
  context: Context,
  json: boolean | undefined,
  previews: readonly Preview[],
  broken: readonly string[],
): void {
  for (const name of broken)
    context.terminal.note(`schedule ${name} cannot be computed: npx leasehold schedules shows why`)
  show(context, json, previews, () => {
    if (previews.length === 0) return 'No schedule is enabled.'
    const rows = previews.map(({ schedule, slot, local, zone, remark }) => [
      schedule,
      local,
      zone,
      moment(slot),
      remark,
    ])
    return table(context.terminal, ['SCHEDULE', 'LOCAL', 'ZONE', 'UTC', 'REMARK'], rows)
  })
}

async function history(
  context: Context,
  name: string | undefined,
  options: { limit: number; json?: boolean },
): Promise<void> {
  await withDatabase(context, async ({ pool }) => {
    const filter = name === undefined ? {} : { schedule: name }
    const firings = await listFirings(pool, { ...filter, limit: options.limit })
    if (name !== undefined && firings.length === 0 && (await listSchedules(pool, { name })).length === 0)
      throw scheduleNotFound(name)
    show(context, options.json, firings, () => {
      if (firings.length === 0) return 'No slot has come yet.'
      const titles = ['SCHEDULE', 'SLOT', 'OUTCOME', 'REASON', 'SLOTS', 'TASK', 'STATE', 'RECORDED', 'BY']
      const rows = firings.map((one): Cell[] => [
        one.schedule,
        one.lastSlot === null ? moment(one.slot) : `${moment(one.slot)} … ${moment(one.lastSlot)}`,
        one.outcome,
        one.reason,
        one.slots,
        one.taskId,
        one.taskState,
        moment(one.recordedAt),
        one.recordedBy,
      ])
      return table(context.terminal, titles, rows)
    })
  })
}
