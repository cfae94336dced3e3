/**
 * Times as people say them, and back: `3 min`, `in 2 h`, `2026-11-21 22:34:01Z`, `+10min`.
 *
 * Invariant: moments are shown in UTC and say so. Relative input counts from the database's clock, which the caller
 * passes in, because that clock decides when a task is due.
 */
import type { WholeRate } from '@leasehold/queue'
import { usageError } from '../failure.ts'

const units = [
  ['d', 86_400_000],
  ['h', 3_600_000],
  ['min', 60_000],
  ['s', 1_000],
] as const

/** A length of time in its two largest units: `850 ms`, `12 s`, `3 min 20 s`, `2 h 5 min`, `4 d 1 h`. */
export function duration(ms: number): string {
  if (ms < 0) return `-${duration(-ms)}`
  if (ms < 1_000) return `${Math.round(ms)} ms`
  let left = Math.floor(ms / 1_000) * 1_000
  const parts: string[] = []
  for (const [unit, size] of units) {
    const whole = Math.floor(left / size)
    left -= whole * size
    if (whole > 0) parts.push(`${whole} ${unit}`)
    else if (parts.length > 0) break
    if (parts.length === 2) break
  }
  return parts.join(' ')
}

/** A rate limit: `60 per min, burst 5`, `10 per 250 ms, burst 10`. */
export function rateText({ tasks, perMs, burst }: WholeRate): string {
  const exact = units.find(([, size]) => perMs % size === 0)
  const [unit, count] = exact === undefined ? ['ms', perMs] : [exact[0], perMs / exact[1]]
  return `${tasks} per ${count === 1 ? unit : `${count} ${unit}`}, burst ${burst}`
}

/** How long ago, coarsely: `just now`, `12 s ago`, `3 min ago`; a moment ahead is `in 3 min`. */
export function relative(ms: number): string {
  if (Math.abs(ms) < 1_000) return 'just now'
  const [first = ''] = duration(Math.abs(ms)).match(/^\d+ \w+/) ?? []
  return ms > 0 ? `${first} ago` : `in ${first}`
}

/** A moment to the second, in UTC: `2026-11-21 22:34:01Z`. */
export function moment(date: Date): string {
  return `${date.toISOString().slice(0, 19).replace('T', ' ')}Z`
}

/** A moment to the millisecond, for log lines. */
export function exactMoment(date: Date): string {
  return date.toISOString().replace('T', ' ')
}

const inputUnits: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1_000,
  m: 60_000,
  min: 60_000,
  h: 3_600_000,
  d: 86_400_000,
}

/** A length of time as typed: `90s`, `10 min`, `2h30m`. Throws a usage error that names the option. */
export function parseDuration(text: string, option: string): number {
  const trimmed = text.trim()
  const parts = [...trimmed.matchAll(/(\d+(?:\.\d+)?)\s*(ms|min|s|m|h|d)\s*/gy)]
  if (parts.length === 0 || parts.map(([whole]) => whole).join('') !== trimmed) {
    throw usageError(`${option}: '${text}' is no length of time`, 'write 90s, 10min, 2h30m or 1d')
  }
  return parts.reduce((sum, [, amount, unit]) => sum + Number(amount) * (inputUnits[unit ?? ''] ?? 0), 0)
}

/**
 * A moment as typed: ISO 8601 with a zone (`2026-11-21T22:34:00Z`, `2026-11-21T22:34+01:00`), a day (UTC midnight), or
 * a length of time from `now`: `+10min`, `10min`. Throws a usage error that names the option.
 */
export function parseMoment(text: string, option: string, now: Date): Date {
  const trimmed = text.trim()
  const hint = 'write 2026-11-21T22:34:00Z, 2026-11-21T22:34+01:00, or a time from now: +10min, +2h'
  if (/^\+?\d+(\.\d+)?\s*[a-z]/i.test(trimmed)) {
    const ahead = parseDuration(trimmed.replace(/^\+/, ''), option)
    return new Date(now.getTime() + ahead)
  }
  if (/^\d{4}-\d{2}-\d{2}T[\d:.]+$/.test(trimmed)) {
    throw usageError(`${option}: '${text}' does not say in which time zone`, hint)
  }
  const date = /^\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2}))?$/.test(trimmed)
    ? new Date(trimmed)
    : new Date(Number.NaN)
  if (Number.isNaN(date.getTime())) throw usageError(`${option}: '${text}' is no moment`, hint)
  return date
}
