/**
 * When a schedule fires, in the words of systemd's OnCalendar.
 *
 * Invariant: what is answered names exactly the moments of the schedule. A cron expression that restricts both the day of
 * the month and the day of the week means either of them and becomes two lines; with a `+` before the weekday it means
 * days that are both. Refuses what systemd cannot say.
 */
import type { ManifestSchedule } from '@leasehold/manifest'

/** The values of OnCalendar, or why there are none. */
export type Calendar = { readonly lines: readonly string[] } | { readonly problem: string }

interface Field {
  readonly min: number
  readonly max: number
  readonly names?: readonly string[]
}

const months = ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec']
const weekdays = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat']
const fields: readonly Field[] = [
  { min: 0, max: 59 },
  { min: 0, max: 59 },
  { min: 0, max: 23 },
  { min: 1, max: 31 },
  { min: 1, max: 12, names: months },
  { min: 0, max: 7, names: weekdays },
]
const nicknames: Readonly<Record<string, string>> = {
  '@yearly': '0 0 1 1 *',
  '@annually': '0 0 1 1 *',
  '@monthly': '0 0 1 * *',
  '@weekly': '0 0 * * 0',
  '@daily': '0 0 * * *',
  '@hourly': '0 * * * *',
}

/** The calendar of a schedule. */
export function toCalendar(schedule: Pick<ManifestSchedule, 'cron' | 'everyMs' | 'zone'>): Calendar {
  if (schedule.cron !== null) return ofCron(schedule.cron, schedule.zone)
  return ofInterval(schedule.everyMs ?? 0)
}

function ofCron(expression: string, zone: string): Calendar {
  const cron = nicknames[expression.trim().toLowerCase()] ?? expression
  const parts = cron.trim().split(/\s+/)
  if (parts.length === 5) parts.unshift('0')
  const both = parts[5]?.startsWith('+') === true
  if (both) parts[5] = parts[5]!.slice(1)
  const sets = parts.map((part, index) => numbers(part, fields[index]))
  const wrong = parts.find((_, index) => sets[index] === null)
  if (parts.length !== 6 || wrong !== undefined) {
    const what = wrong === undefined ? '' : `: '${wrong}'`
    return { problem: `its cron expression '${expression}' cannot be said to systemd${what}` }
  }
  const [seconds, minutes, hours, days, month, weekday] = sets as [Set<number>, ...Set<number>[]] as Sets
  const time = `${list(hours, 23)}:${list(minutes, 59)}:${list(seconds, 59)} ${zone}`
  const ofMonth = `*-${list(month, 12)}-${list(days, 31)} ${time}`
  const names = weekdayNames(weekday)
  // As croner has it: only `*` alone restricts nothing.
  if (!both && parts[3] !== '*' && parts[5] !== '*')
    return { lines: [ofMonth, `${names === null ? '' : `${names} `}*-${list(month, 12)}-* ${time}`] }
  return { lines: [names === null ? ofMonth : `${names} ${ofMonth}`] }
}

type Sets = [Set<number>, Set<number>, Set<number>, Set<number>, Set<number>, Set<number>]

function ofInterval(everyMs: number): Calendar {
  const s = everyMs / 1_000
  if (Number.isInteger(s) && s > 0) {
    if (60 % s === 0) return { lines: [s === 60 ? '*:*:00 UTC' : `*:*:0/${s} UTC`] }
    const m = s / 60
    if (Number.isInteger(m) && 60 % m === 0) return { lines: [m === 60 ? '*:00:00 UTC' : `*:0/${m}:00 UTC`] }
    const h = m / 60
    if (Number.isInteger(h) && 24 % h === 0)
      return { lines: [h === 24 ? '00:00:00 UTC' : `0/${h}:00:00 UTC`] }
  }
  return { problem: `an interval of ${s} s does not divide a minute, an hour or a day` }
}

/** The numbers a part of an expression names; null when it is not of this plain kind. */
function numbers(part: string, field: Field | undefined): Set<number> | null {
  if (field === undefined) return null
  const found = new Set<number>()
  for (const piece of part.split(',')) {
    const match = /^(\*|[a-z]{3}|\d{1,2})(?:-([a-z]{3}|\d{1,2}))?(?:\/(\d{1,2}))?$/i.exec(piece)
    if (match === null) return null
    const [, first = '', last, step] = match
    const from = first === '*' ? field.min : value(first, field)
    const to =
      first === '*' || (last === undefined && step !== undefined) ? field.max : value(last ?? first, field)
    const by = step === undefined ? 1 : Number(step)
    if (from === null || to === null || by === 0 || from > to || (first === '*' && last !== undefined))
      return null
    for (let n = from; n <= to; n += by) found.add(field.names === weekdays ? n % 7 : n)
  }
  return found
}

function value(text: string, field: Field): number | null {
  const named = field.names?.indexOf(text.toLowerCase()) ?? -1
  const n = named >= 0 ? named + (field.names === months ? 1 : 0) : Number(text)
  return Number.isInteger(n) && n >= field.min && n <= field.max ? n : null
}

/** `*`, or `1..5,7`. */
function list(set: Set<number>, max: number): string {
  const sorted = [...set].toSorted((a, b) => a - b)
  const least = max === 31 || max === 12 ? 1 : 0
  if (sorted.length === max - least + 1) return '*'
  const ranges: [number, number][] = []
  for (const n of sorted) {
    const last = ranges.at(-1)
    if (last !== undefined && last[1] === n - 1) last[1] = n
    else ranges.push([n, n])
  }
  return ranges.map(([from, to]) => (from === to ? pad(from) : `${pad(from)}..${pad(to)}`)).join(',')
}

function pad(n: number): string {
  return String(n).padStart(2, '0')
}

function weekdayNames(set: Set<number>): string | null {
  if (set.size === 7) return null
  const sorted = [...set].toSorted((a, b) => a - b)
  return sorted.map((day) => weekdays[day]!.replace(/^./, (c) => c.toUpperCase())).join(',')
}
