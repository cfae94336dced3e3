/**
 * When to look for work again: at once while looks bring something, at the due time of what is scheduled, when a
 * notification comes, and otherwise after ever longer, jittered waits.
 *
 * Polling is the truth and notifications are a hint: whatever is lost, the next look comes within `maxPollMs`.
 * What to ask for is capacity.ts; the loop around both is loop.ts.
 */
import type { Wish } from './capacity.ts'
import { batchSize } from './capacity.ts'
import type { Settings } from './options.ts'

/** How an exchange is to look. */
export interface Look {
  /** Move tasks whose time has come first. */
  readonly promote: boolean
  /** Ask to be notified for so long; 0: no more; null: as it was. */
  readonly wakeMs: number | null
}

const promoteEveryMs = 200

/** The pace of one loop. */
export class Pace {
  /** The last look brought as much as it asked for, and that was a batch: more is there. */
  saturated = false
  private emptyLooks = 0
  private wakeUntil = 0
  /** Since when every look was full; Infinity while there are idle moments. */
  private busySince = Infinity
  private dueAt = Infinity
  private promotedAt = -Infinity
  private lookedWithoutPromotion = false
  private readonly wakeForMs: number
  private readonly maxRestMs: number
  private readonly hearing: () => boolean

  /** `hearing`: whether notifications arrive. */
  constructor(settings: Pick<Settings, 'maxPollMs' | 'wedgeLimitMs'>, hearing: () => boolean) {
    this.hearing = hearing
    // A loop that rests must not look like one that stands still.
    this.maxRestMs = Math.min(settings.maxPollMs, settings.wedgeLimitMs / 4)
    this.wakeForMs = Math.max(15_000, this.maxRestMs * 4)
  }

  look(now: number): Look {
    const promote = now >= this.dueAt || now - this.promotedAt > promoteEveryMs
    if (promote) this.promotedAt = now
    this.lookedWithoutPromotion = !promote
    return { promote, wakeMs: this.wakeWish(now) }
  }

  /** Asks to be notified while there are idle moments, and to be left alone while there are none. */
  private wakeWish(now: number): number | null {
    if (!this.hearing()) return null
    if (this.emptyLooks > 0) {
      if (this.wakeUntil - now > this.wakeForMs / 3) return null
      this.wakeUntil = now + this.wakeForMs
      return this.wakeForMs
    }
    if (this.wakeUntil > 0 && now - this.busySince > 100) {
      this.wakeUntil = 0
      return 0
    }
    return null
  }

  /**
   * A look was answered. True when another one should follow before resting: between a look and its wish to be
   * notified something may have been submitted.
   */
  looked(wish: Wish, look: Look, claimed: number, dueInMs: number | undefined): boolean {
    const now = performance.now()
    if (look.promote) this.dueAt = now + (dueInMs ?? Infinity)
    this.saturated = claimed >= wish.total && wish.total >= batchSize
    if (claimed >= wish.total) {
      this.emptyLooks = 0
      this.busySince = Math.min(this.busySince, now)
      return false
    }
    this.busySince = Infinity
    this.emptyLooks = claimed > 0 ? 1 : this.emptyLooks + 1
    return look.wakeMs !== null && look.wakeMs > 0
  }

  /** A look failed: what was wished for with it must be wished for again. */
  failed(): void {
    this.saturated = false
    this.wakeUntil = 0
    this.dueAt = Infinity
    this.promotedAt = -Infinity
  }

  /** How long to rest. With no place free only what ends wakes; a timer is kept nevertheless. */
  restMs(anyFree: boolean): number {
    const now = performance.now()
    const notified = this.hearing() && this.wakeUntil > now
    const step =
      !anyFree || notified ? this.maxRestMs : Math.min(this.maxRestMs, 5 * 2 ** Math.min(this.emptyLooks, 12))
    const jittered = step * (0.75 + Math.random() / 4) // so that many runners do not look at the same moment
    if (!anyFree) return jittered
    const promotion = this.lookedWithoutPromotion ? this.promotedAt + promoteEveryMs - now : Infinity
    return Math.max(1, Math.min(jittered, this.dueAt - now, promotion + 1))
  }
}
