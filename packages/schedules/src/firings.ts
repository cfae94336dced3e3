/**
 * The moments of a timing, in order, each once; and what clock changes do to them.
 *
 * The rule. An expression that names hours (`30 2 * * *`, `0 9-17 * * *`) means times of the day: a time that the clocks
 * skip fires later by as much as they skip (02:30 → 03:30, so that a day lies between two firings as always), and one
 * that occurs twice fires the first time. An expression that names every hour (`0 * * * *`, `*\/15 * * * *`) means what
 * clocks show: it fires whenever they show a match, so not in what is skipped and again in what is repeated; by elapsed
 * time it goes on evenly where the change is a whole hour. An interval knows no clock: it goes on by elapsed time.
 * This is cron's usual rule (vixie, cronie), but skipped times keep their distance as java.time and Temporal have it.
 */
import type { CronTiming, Timing } from './timing.ts'
import { offsetMs } from './zone.ts'

const dayMs = 86_400_000
/** The largest skip there ever was is a whole day (Samoa, 2011). */
const lookBackMs = dayMs + 3_600_000

/** The first `count` moments after `after`. Fewer when the timing ends, which no timing does in this millennium. */
export function nextFirings(timing: Timing, after: Date, count: number): Date[] {
  return take(timing, after.getTime(), Number.POSITIVE_INFINITY, count)
}

/** Moments in (after, upTo], the first `limit` of them. */
export function firingsBetween(timing: Timing, after: Date, upTo: Date, limit: number): Date[] {
  return take(timing, after.getTime(), upTo.getTime(), limit)
}

/** How many moments lie in (after, upTo]; null when there are more than `limit`, which costs nothing for intervals. */
export function countFirings(timing: Timing, after: Date, upTo: Date, limit: number): number | null {
  if (timing.kind === 'interval') {
    const index = (at: Date): number => Math.floor((at.getTime() - timing.anchorMs) / timing.everyMs)
    return Math.max(0, index(upTo) - index(after))
  }
  const found = firingsBetween(timing, after, upTo, limit + 1).length
  return found > limit ? null : found
}

/** The latest moment up to and including `at`; null when there is none in the forty years before it. */
export function lastFiring(timing: Timing, at: Date): Date | null {
  const atMs = at.getTime()
  if (timing.kind === 'interval') {
    const { anchorMs, everyMs } = timing
    return new Date(anchorMs + Math.floor((atMs - anchorMs) / everyMs) * everyMs)
  }
  // Each window is empty before the next one is opened, so however far it reaches few moments are walked.
  for (const days of [1 / 24, 1, 32, 370, 15_000]) {
    const found = take(timing, atMs - days * dayMs, atMs, Number.POSITIVE_INFINITY).at(-1)
    if (found !== undefined) return found
  }
  return null
}

/** What a clock change does to a moment of a timing, in words for people; null for nothing. */
export function remarkOn(timing: Timing, at: Date): string | null {
  if (timing.kind === 'interval') return null
  const { zone } = timing
  const atMs = at.getTime()
  const now = offsetMs(zone, atMs)
  const before = offsetMs(zone, atMs - lookBackMs)
  const reading = atMs + now
  if (!timing.everyHour && before < now && timing.nextReading(reading - 1) !== reading)
    return `${clock(atMs + before)} is skipped by the clocks that day: it fires ${clock(reading)}`
  const later = offsetMs(zone, atMs + lookBackMs)
  if (later < now && offsetMs(zone, reading - later) === later)
    return timing.everyHour
      ? 'the first of two: clocks show this time twice'
      : 'clocks show this time twice: it fires the first time'
  if (timing.everyHour && before > now && offsetMs(zone, reading - before) === before)
    return 'the second of two: clocks show this time twice'
  return null
}

function clock(readingMs: number): string {
  return new Date(readingMs).toISOString().slice(11, 16)
}

function take(timing: Timing, afterMs: number, upToMs: number, limit: number): Date[] {
  const found: Date[] = []
  if (limit <= 0) return found
  const moments = timing.kind === 'interval' ? intervalMoments(timing, afterMs) : cronMoments(timing, afterMs)
  for (const moment of moments) {
    if (moment > upToMs) break
    found.push(new Date(moment))
    if (found.length >= limit) break
  }
  return found
}

function* intervalMoments(
  { anchorMs, everyMs }: { anchorMs: number; everyMs: number },
  afterMs: number,
): Generator<number> {
  for (let n = Math.floor((afterMs - anchorMs) / everyMs) + 1; ; n += 1) yield anchorMs + n * everyMs
}

/**
 * Walks clock readings in their order and turns each into moments. Near a clock change the order of moments is another
 * than that of readings, so those wait in `pending` until no later reading can come before them.
 */
function* cronMoments(timing: CronTiming, afterMs: number): Generator<number> {
  const { zone } = timing
  // Start where no reading is left out: one that was skipped lately may lie ahead as a moment, and so may one that is
  // about to be shown again.
  const nearby = [0, -lookBackMs, lookBackMs].map((aside) => offsetMs(zone, afterMs + aside))
  const start = Math.min(...nearby)
  let last = afterMs
  let pending: number[] = []
  for (let reading = timing.nextReading(afterMs + start - 1); reading !== null;) {
    const before = offsetMs(zone, reading - dayMs)
    const after = offsetMs(zone, reading + dayMs)
    const earliest = reading - Math.max(before, after)
    const settled = before === after
    pending.push(...momentsOf(timing, reading, before, after))
    pending.sort((a, b) => a - b)
    const ready = pending.filter((moment) => moment <= earliest || settled)
    pending = pending.slice(ready.length)
    for (const moment of ready) {
      if (moment > last) yield (last = moment)
    }
    reading = timing.nextReading(reading)
  }
  for (const moment of pending) if (moment > last) yield (last = moment)
}

/** When clocks show a reading; `before` and `after` are the offsets a day to either side of it. */
function momentsOf(timing: CronTiming, reading: number, before: number, after: number): number[] {
  const offsets = before === after ? [before] : [before, after].toSorted((a, b) => b - a)
  const shown = offsets
    .filter((offset) => offsetMs(timing.zone, reading - offset) === offset)
    .map((offset) => reading - offset)
  if (timing.everyHour) return shown
  return [shown[0] ?? reading - before]
}
