/**
 * Lengths of time as people write them: `'30 s'`, `'5 min'`, or a number of milliseconds.
 *
 * Refuses what is negative, not finite or of an unknown unit; SQL gets whole milliseconds.
 */
import { ValueRefusedError } from './errors.ts'

/** Milliseconds as a number, or a number with its unit. */
export type Duration = number | `${number} ${'ms' | 's' | 'min' | 'h' | 'd'}`

const unitMs: Record<string, number> = { ms: 1, s: 1000, min: 60_000, h: 3_600_000, d: 86_400_000 }

/** A duration in whole milliseconds. Throws {@link ValueRefusedError} for what is no duration. */
export function toMs(duration: Duration): number {
  const match = typeof duration === 'string' ? /^(\d+(?:\.\d+)?) ?(ms|s|min|h|d)$/.exec(duration) : null
  const ms = match
    ? Number(match[1]) * unitMs[match[2]!]!
    : typeof duration === 'number'
      ? duration
      : Number.NaN
  if (!Number.isFinite(ms) || ms < 0) {
    throw new ValueRefusedError(
      '22023',
      null,
      `'${duration}' is no duration; write '30 s', '5 min' or milliseconds`,
    )
  }
  return Math.round(ms)
}
