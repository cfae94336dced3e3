/**
 * A timing: a cron expression in a time zone, or an interval counted from an anchor. Parsed once, refused with reasons.
 *
 * Cron expressions have five fields (minute to weekday; names, lists, ranges, steps, L, #, W as croner reads them) or
 * are @hourly, @daily, @weekly, @monthly, @yearly. Croner is asked for clock readings only, as if the zone had no clock
 * changes; what those do is decided in firings.ts. Shorter than a minute is an interval's business. What programs read in
 * two ways (`*\/2` beside a weekday) is refused as new; what stands in a database already is read as croner reads it.
 */
import { ConfigError, type ConfigProblem } from '@leasehold/queue'
import { Cron } from 'croner'
import { zoneProblem } from './zone.ts'

/** What a timing is made from: exactly one of `cron` and `everyMs`. */
export interface TimingInput {
  readonly cron: string | null
  /** Whole seconds, in milliseconds: 1 s to 366 days. */
  readonly everyMs: number | null
  /** IANA name; matters to cron expressions and to how moments are shown. */
  readonly zone: string
  /** Intervals: slots are whole multiples of `everyMs` from here; default 1970-01-01T00:00:00Z. */
  readonly anchor?: Date
}

/** Clock readings of a cron expression, in a zone. */
export interface CronTiming {
  readonly kind: 'cron'
  readonly zone: string
  /** It names every hour of the day, so it follows the clock and not the calendar day (see firings.ts). */
  readonly everyHour: boolean
  /** The next matching clock reading after one; both are written as if they were UTC, in milliseconds. Null: none. */
  readonly nextReading: (readingMs: number) => number | null
}

/** Moments at equal distances. */
export interface IntervalTiming {
  readonly kind: 'interval'
  readonly zone: string
  readonly everyMs: number
  readonly anchorMs: number
}

export type Timing = CronTiming | IntervalTiming

export const longestIntervalMs: number = 366 * 86_400_000

/** A moment to judge expressions from; one that never matches from here on never matches at all. */
const sample = Date.UTC(2026, 0, 1)

/**
 * Parses a timing that somebody gives. Throws {@link ConfigError} with every problem; their names are `cron`, `everyMs`,
 * `zone`, `anchor`.
 */
export function parseTiming(input: TimingInput): Timing {
  return parse(input, ambiguity)
}

/** Reads a timing that stands in a database: one that would be refused as ambiguous today goes on as it did. Throws as parseTiming. */
export function readTiming(input: TimingInput): Timing {
  return parse(input, () => null)
}

function parse(input: TimingInput, refuse: (fields: readonly string[]) => string | null): Timing {
  const { cron, everyMs, zone, anchor } = input
  const problems: ConfigProblem[] = []
  const badZone = zoneProblem(zone)
  if (badZone !== null) problems.push({ name: 'zone', problem: badZone })
  if (anchor !== undefined && Number.isNaN(anchor.getTime()))
    problems.push({ name: 'anchor', problem: 'is no moment' })
  if ((cron === null) === (everyMs === null))
    problems.push({ name: 'cron', problem: 'give a cron expression or an interval, one of the two' })
  else if (cron === null) problems.push(...intervalProblems(everyMs!))
  const expression = cron === null || everyMs !== null ? null : readExpression(cron, refuse)
  if (typeof expression === 'string') problems.push({ name: 'cron', problem: expression })
  if (problems.length > 0) throw new ConfigError(problems)
  if (expression !== null && typeof expression !== 'string') return { kind: 'cron', zone, ...expression }
  return { kind: 'interval', zone, everyMs: everyMs!, anchorMs: anchor?.getTime() ?? 0 }
}

function intervalProblems(everyMs: number): ConfigProblem[] {
  const fits = Number.isInteger(everyMs / 1_000) && everyMs >= 1_000 && everyMs <= longestIntervalMs
  const problem = `${everyMs} ms is no interval: it must be whole seconds, from 1 s to 366 days`
  return fits ? [] : [{ name: 'everyMs', problem }]
}

/** The clock readings of an expression, or what is wrong with it. */
function readExpression(
  text: string,
  refuse: (fields: readonly string[]) => string | null,
): Pick<CronTiming, 'everyHour' | 'nextReading'> | string {
  const shown = `'${text.slice(0, 100)}'`
  const fields = text.trim().split(/\s+/)
  const nickname = fields.length === 1 && /^@[a-z]+$/i.test(fields[0]!)
  if (!nickname && fields.length !== 5) {
    return `${shown} has ${fields[0] === '' ? 0 : fields.length} fields; five are needed: minute hour day month weekday, as in '0 6 * * MON'`
  }
  let job: Cron
  let everyHour: boolean
  try {
    job = readings(fields.join(' '))
    everyHour = nickname ? /^@hourly$/i.test(fields[0]!) : namesEveryHour(fields[1]!)
  } catch (error) {
    const reason = error instanceof Error ? error.message.replace(/^CronPattern: /, '') : String(error)
    return `${shown} cannot be read: ${reason}`
  }
  const nextReading = (readingMs: number): number | null =>
    job.nextRun(new Date(readingMs))?.getTime() ?? null
  if (nextReading(sample) === null) return `${shown} names a day that never comes`
  const ambiguous = nickname ? null : refuse(fields)
  if (ambiguous !== null) return `${shown} ${ambiguous}`
  return { everyHour, nextReading }
}

/**
 * Why an expression of five fields means other days elsewhere; null when it does not. With a day and a weekday either of
 * them will do, unless one of the two is no restriction: for croner that is `*` alone, for Vixie's cron and cronie whatever
 * begins with it, so that `0 0 *\/2 * MON` is Mondays and odd days here, and Mondays on odd days there.
 */
function ambiguity([minute, hour, day = '*', month, weekday = '*']: readonly string[]): string | null {
  const [dayField, weekdayField] = [day, weekday].map((field) => field.replaceAll('?', '*')) as [
    string,
    string,
  ]
  if (dayField === '*' || weekdayField === '*' || weekdayField.startsWith('+')) return null
  if (!dayField.startsWith('*') && !weekdayField.startsWith('*')) return null
  const days = dayField.replace(/^\*/, '1-31')
  const weekdays = weekdayField.replace(/^\*/, '0-6')
  return (
    `is read in two ways: on ${day} or ${weekday}, or on days that are both; ` +
    `write '${minute} ${hour} ${days} ${month} ${weekdays}' for either, '${minute} ${hour} ${day} ${month} +${weekdays}' for both`
  )
}

/** Croner without a zone of its own: it reads UTC clocks, which never change. */
function readings(expression: string): Cron {
  return new Cron(expression, { utcOffset: 0, mode: '5-part', paused: true })
}

function namesEveryHour(hours: string): boolean {
  const last = readings(`0 ${hours} * * *`)
    .nextRuns(24, new Date(sample - 1_000))
    .at(-1)
  return last?.getTime() === sample + 23 * 3_600_000
}
