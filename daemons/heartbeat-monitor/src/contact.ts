/**
 * Whether the database can be reached, as all loops of this process see it together.
 *
 * Invariant: an outage is told once when it begins, at most every ten seconds while it lasts, and once when it is over.
 * The time spent cut off is kept until a look has reported it (monitor_beat), because live workers may have expired in
 * it and deserve a grace. An answer that is an error is still an answer. Waiting between tries is the caller's.
 */
import { OutageLog, isFailover } from '@leasehold/postgres'
import { describeError } from '@leasehold/queue'
import type { Log } from './log.ts'

/** Shared by the loops of one monitor. */
export class Contact {
  private readonly outage = new OutageLog()
  private readonly log: Log
  private reachedAt = performance.now()
  private lost = false
  private unreportedMs = 0

  constructor(log: Log) {
    this.log = log
  }

  /** A statement succeeded. Answers how long the database had been out of reach before, 0 when it was not. */
  reached(): number {
    const { lost } = this
    const awayMs = lost ? performance.now() - this.reachedAt : 0
    this.unreportedMs = Math.max(this.unreportedMs, awayMs)
    this.reachedAt = performance.now()
    this.lost = false
    const failures = this.outage.recovered()
    if (failures > 0 && lost) {
      this.log.info(
        { event: 'database.answers', failures, awayMs: Math.round(awayMs) },
        'database answers again',
      )
    } else if (failures > 0) {
      this.log.info({ event: 'duty.recovered', failures }, 'the monitor does its duties again')
    }
    return awayMs
  }

  /** `duty` failed; logs it unless that was done a moment ago. */
  failed(duty: string, error: unknown): void {
    const away = isOutOfReach(error)
    if (away) this.lost = true
    else this.reachedAt = performance.now()
    if (!this.outage.failed()) return
    const { code, message } = describeError(error)
    if (away) {
      this.log.warn(
        { event: 'database.away', duty, code, reason: message },
        'database cannot be reached; trying again',
      )
    } else {
      this.log.error(
        { event: 'duty.failed', duty, code, reason: message },
        'a duty of the monitor failed; trying again',
      )
    }
  }

  /** Failures in a row, for the wait before the next try. */
  get failures(): number {
    return this.outage.count
  }

  /** The longest time out of reach that no look has reported yet, including one that lasts. */
  get awayMs(): number {
    return Math.max(this.unreportedMs, this.lost ? performance.now() - this.reachedAt : 0)
  }

  /** A look that reported `awayMs` was committed. */
  reported(): void {
    this.unreportedMs = 0
  }
}

/** Nothing came back, or what came back said "not here": pg's server errors carry a severity, broken links do not. */
function isOutOfReach(error: unknown): boolean {
  if (typeof error !== 'object' || error === null) return false
  const answered = 'severity' in error
  const full = 'code' in error && error.code === '53300'
  return !answered || full || isFailover(error)
}
