/**
 * What to do about a schedule whose pending slot is due: which slots fire, which are skipped, which one is next.
 *
 * Pure arithmetic over one schedule; the database decides whether a plan still holds when it arrives. A slot is *missed*
 * when it is later than `missedAfterMs`; only then does the catch-up policy matter, so a restart never costs a slot.
 */
import { countFirings, firingsBetween, lastFiring, nextFirings } from './firings.ts'
import type { Timing } from './timing.ts'

/** What becomes of missed slots: none of them fires, the latest one does, or each does. */
export type CatchUp = 'skip' | 'one' | 'all'

/** A slot that fires within this time after it was due is late, not missed. */
export const missedAfterMs = 120_000
/** Slots of one schedule fired at once; the rest follows in the next round. */
const batch = 100
/** Skipped slots are counted up to here; beyond it is only said that there are many. */
const countLimit = 1_000

export interface PlanInput {
  readonly timing: Timing
  readonly catchUp: CatchUp
  readonly jitterMs: number
  /** The first slot that is neither fired nor skipped; null when it is not known yet. */
  readonly pending: Date | null
  /** No slot up to here belongs to the schedule: it was made, changed or switched on then. */
  readonly since: Date
  /** The database's clock. */
  readonly now: Date
}

export interface Plan {
  readonly fire: readonly Date[]
  /** All slots from the first to the last, recorded as one. `count` null: more than can be counted cheaply. */
  readonly skip: { readonly first: Date; readonly last: Date; readonly count: number | null } | null
  /** The slot after all of these; null when the timing has none. */
  readonly next: Date | null
}

/** Plans a schedule. With a pending slot that lies ahead there is nothing to do but to keep it. */
export function planFirings(input: PlanInput): Plan {
  const { timing, catchUp, pending, since, now, jitterMs } = input
  if (pending === null) return { fire: [], skip: null, next: following(timing, since) }
  if (pending > now) return { fire: [], skip: null, next: pending }
  // Slots behind the pending one may have their jitter still ahead: those up to here have not.
  const due = earlier(now, jitterMs)
  const missed = earlier(now, jitterMs + missedAfterMs)
  if (pending > missed || catchUp === 'all') {
    const fire = [pending, ...firingsBetween(timing, pending, due, batch - 1)]
    return { fire, skip: null, next: following(timing, fire.at(-1)!) }
  }
  const last = later(lastFiring(timing, missed), pending)
  // Of everything that was missed the latest slot fires; one that has come due since stands for it.
  const fire = catchUp === 'one' && firingsBetween(timing, last, now, 1).length === 0 ? [last] : []
  const lastSkipped = fire.length === 0 ? last : lastFiring(timing, earlier(last, 1))
  const skip =
    lastSkipped === null || lastSkipped < pending
      ? null
      : {
          first: pending,
          last: lastSkipped,
          count: countFirings(timing, earlier(pending, 1), lastSkipped, countLimit),
        }
  return { fire, skip, next: following(timing, last) }
}

function following(timing: Timing, after: Date): Date | null {
  return nextFirings(timing, after, 1)[0] ?? null
}

function earlier(at: Date, ms: number): Date {
  return new Date(at.getTime() - ms)
}

function later(a: Date | null, b: Date): Date {
  return a !== null && a > b ? a : b
}
