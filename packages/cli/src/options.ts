/**
 * Arguments and options that several commands share, parsed strictly.
 *
 * Invariant: ids stay strings (they outgrow numbers), counts are whole numbers in bounds, and a wrong value is a usage
 * error that says what would be right.
 */
import { InvalidArgumentError } from 'commander'
import type { TaskState } from '@leasehold/queue'

/** A task id as typed. */
export function parseId(text: string): string {
  if (/^\d{1,19}$/.test(text) && BigInt(text) < 2n ** 63n) return BigInt(text).toString()
  throw new InvalidArgumentError('A task id is a whole number, as `leasehold tasks` shows it.')
}

/** For `<ids...>`: collects one after the other. */
export function collectIds(text: string, earlier: readonly string[] | undefined): string[] {
  return [...(earlier ?? []), ...text.split(',').map(parseId)]
}

/** A whole number in bounds. */
export function wholeNumber(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text)
    if (/^\d{1,10}$/.test(text) && value >= min && value <= max) return value
    throw new InvalidArgumentError(`It must be a whole number from ${min} to ${max}.`)
  }
}

export const taskStates: readonly TaskState[] = [
  'ready',
  'running',
  'scheduled',
  'waiting',
  'done',
  'dead',
  'cancelled',
]
