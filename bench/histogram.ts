/**
 * Latencies of many tasks in little memory: counts by buckets 2 % apart, which processes send and add up.
 */

const width = Math.log(1.02)
/** From 1 µs to more than an hour. */
const buckets = 1200

/** Counts by bucket. */
export type Histogram = number[]

export function newHistogram(): Histogram {
  return Array.from({ length: buckets }, () => 0)
}

/** Counts one value, in µs; below 1 counts as 1. */
export function record(into: Histogram, micros: number): void {
  const at = Math.min(buckets - 1, Math.max(0, Math.round(Math.log(Math.max(1, micros)) / width)))
  into[at]! += 1
}

/** Adds the counts of `other`. */
export function add(into: Histogram, other: Histogram): void {
  for (let i = 0; i < buckets; i++) into[i]! += other[i] ?? 0
}

/** The value in ms below which a share (0–1) of the counted ones lies; NaN when nothing was counted. */
export function percentileMs(of: Histogram, share: number): number {
  const total = of.reduce((sum, n) => sum + n, 0)
  if (total === 0) return Number.NaN
  let left = Math.max(1, Math.ceil(total * share))
  for (let i = 0; i < buckets; i++) {
    left -= of[i]!
    if (left <= 0) return Math.exp(i * width) / 1000
  }
  return Math.exp(buckets * width) / 1000
}
