/**
 * When to look for work again: at once while looks bring something, at the due time of what is scheduled or held by its
 * rate limit, when a notification comes, and otherwise after ever longer, jittered waits.
 *
 * Polling is the truth and notifications are a hint: whatever is lost, the next look comes within `maxPollMs`.
 * What to ask for is capacity.ts; the loop around both is loop.ts.
 */
import type { Wish, Yield } from './capacity.ts'
import type { Settings } from './options.ts'
import type { Answer } from './settlement.ts'

/** How an exchange is to look. */
export interface Look {
  /** Move tasks whose time has come first, and say when the next one is due. */
  readonly promote: boolean
  /** Ask to be notified for so long; 0: no more; null: as it was. */
  readonly wakeMs: number | null
}

const promoteEveryMs = 200
/** So many rich looks in a row whose handlers ended at once, most of them, before more is claimed than can run. */
const quickLooks = 4
/**
 * Handlers of one answer that take longer than this together are not quick: others would wait behind them. It is counted
 * in CPU time: where many processes share a core nothing is quick by the clock, and it is there that batches pay most.
 */
const quickCpuMs = 10
/** By the clock, for handlers that block without computing: from here on no more is claimed ahead, and from there on less. */
const quickMs = 250
const slowMs = 500
/** Of what is claimed ahead, those that will not end at once may need this share of the places that are free. */
const roomyShare = 1 / 2
/** What is known of handlers counts for so much less with each turn that begins some. */
const fading = 0.9
/** So many times as much is claimed ahead after a quick answer, at most. */
const fastestGrowth = 4
/** The same on the way back to what has been right before, and no further. */
const fastestReturn = 16
/** So long nothing is claimed ahead, once there was a reason not to. */
const cautionMs = 5_000
/** What was claimed ahead went back: at least so much is claimed ahead later, and twice as much after so long without. */
const leastAhead = 16
const trustMs = 30_000

/** Handlers that have begun in a turn of the loop: what they have taken, by the clock and of the CPU. */
interface Begun {
  readonly at: number
  readonly cpuMsBefore: number
  ms: number
  cpuMs: number
  /** How many had finished then. */
  finished: number
}

/** The pace of one loop. */
export class Pace {
  /** The last look brought a whole batch: more is there. */
  private batchFull = false
  /** The last look brought all that was asked for of some stage. */
  private lastRich = false
  /** Rich looks in a row after which enough places were free again within one turn of the loop. */
  private quick = 0
  private aheadBy = 0
  /** What was claimed ahead and was right; a lack of work takes nothing away from it. */
  private proven = 0
  private most: number
  private waitedAt = -Infinity
  /** When the answer came whose handlers are starting, and what the process had used by then. */
  private starting: { readonly at: number; readonly cpuMs: number; readonly finished: number } | null = null
  /** Of the handlers that were to begin lately: how many, and how many of them ended at once. */
  private lately = { claimed: 0, atOnce: 0 }
  /** Since when handlers have begun in this turn, and what those have taken that needed to wait for nothing; null: none has. */
  private begun: Begun | null = null
  /** What was claimed ahead before there was a reason not to. */
  private lost = 0
  private cautiousUntil = -Infinity
  private emptyLooks = 0
  /** Empty looks in a row that could not ask about every stage. */
  private partialLooks = 0
  /** Until when notifications were asked for, by stage. */
  private readonly wakeUntil = new Map<string, number>()
  /** When to look again for tasks that wait for their stage's rate limit, by stage; nobody is notified of these. */
  private readonly heldUntil = new Map<string, number>()
  /** Since when every look was full; Infinity while there are idle moments. */
  private busySince = Infinity
  private dueAt = Infinity
  private promotedAt = -Infinity
  private lookedWithoutPromotion = false
  private readonly wakeForMs: number
  private readonly maxRestMs: number
  private readonly stageCount: number
  private readonly hearing: () => boolean
  private readonly limit: number

  /** `hearing`: whether notifications arrive. `limit`: the most to claim ahead. */
  constructor(settings: Pick<Settings, 'stages' | 'maxPollMs'>, hearing: () => boolean, limit: number) {
    this.hearing = hearing
    this.limit = limit
    this.most = limit
    this.stageCount = settings.stages.length
    this.maxRestMs = settings.maxPollMs
    this.wakeForMs = Math.max(15_000, this.maxRestMs * 4)
  }

  /** A second exchange beside this one has something to do. */
  get saturated(): boolean {
    return this.batchFull || this.ahead > 0
  }

  /**
   * How much more to claim than can run: rich looks follow each other, and most handlers of one answer take together no
   * more than an exchange does, so that what is claimed ahead starts as soon as it arrives, and neither waits for the other.
   * It grows fast while that stays so, up to what finds room in places that others do not hold, and halves when the handlers
   * of one answer take long together or when a look brings less than it asked for.
   */
  get ahead(): number {
    return this.aheadBy
  }

  /** The answer to a look is here, its handlers are about to start. `finished`: how many handlers have, up to now. */
  begins({ claimed }: Yield, finished: number): void {
    const now = { at: performance.now(), cpuMs: cpuMs(), finished }
    this.lately.claimed += claimed
    this.starting ??= now
    this.begun ??= { at: now.at, cpuMsBefore: now.cpuMs, ms: 0, cpuMs: 0, finished: Infinity }
  }

  /**
   * Its handlers have started, and what they do without waiting for anything is done. To be called before the process
   * turns to anything else: what its other workers do is not counted. `finished`: as above.
   */
  started(finished: number): void {
    const { starting, begun } = this
    this.starting = null
    if (starting === null || begun === null) return
    this.lately.atOnce += finished - starting.finished
    const ms = performance.now() - starting.at
    begun.ms += ms
    begun.cpuMs += threadCpuMs(ms, starting.cpuMs)
    begun.finished = finished
  }

  /** A turn of the loop is over. `room`: places in which no handler runs; `finished`: as above. */
  turned({ room, finished }: { room: number; finished: number }): void {
    const now = performance.now()
    const { begun } = this
    this.begun = null
    // Some waited for a moment and went on within this turn: what they did then cannot be told from what others did.
    if (begun !== null && finished > begun.finished) {
      begun.ms = now - begun.at
      begun.cpuMs = threadCpuMs(begun.ms, begun.cpuMsBefore)
    }
    if (room <= 0 || now < this.cautiousUntil) return this.forget()
    if (begun === null) return
    const roomy = this.roomFor(room)
    if (!this.lastRich && now - begun.at > slowMs) return this.hold() // it has rested: what comes next may be quite another thing
    if (!this.lastRich || begun.cpuMs > quickCpuMs || begun.ms > slowMs) {
      this.aheadBy = Math.floor(this.aheadBy / 2)
      if (this.lastRich) this.proven = Math.min(this.proven, this.aheadBy)
      if (this.aheadBy === 0) this.hold()
    } else if (begun.ms <= quickMs && (++this.quick >= quickLooks || this.proven > 0)) {
      // No further than what would still be quick.
      this.proven = Math.max(this.proven, this.aheadBy)
      const back = Math.min(fastestReturn, this.proven / Math.max(1, this.aheadBy))
      const fastest = Math.max(fastestGrowth, back)
      const times = Math.min(fastest, quickCpuMs / begun.cpuMs, slowMs / begun.ms)
      this.aheadBy = Math.min(this.mostAhead(now), Math.max(1, Math.ceil(this.aheadBy * times)))
    }
    this.aheadBy = Math.min(this.aheadBy, roomy)
  }

  /**
   * How many may be claimed ahead where so many places are free: of handlers like the latest ones, those that do not end at
   * once hold a place, and must leave some for what comes behind them.
   */
  private roomFor(room: number): number {
    const { claimed, atOnce } = this.lately
    this.lately = { claimed: claimed * fading, atOnce: atOnce * fading }
    const goOn = Math.max(0, claimed - atOnce) / claimed
    return goOn > 0 ? Math.floor((roomyShare * room) / goOn) : Infinity
  }

  /** It comes back slowly after something had to wait. */
  private mostAhead(now: number): number {
    if (this.most < this.limit && now - this.waitedAt > trustMs) {
      this.most = Math.min(this.limit, this.most * 2)
      this.waitedAt = now
    }
    return this.most
  }

  private hold(): void {
    this.quick = 0
    this.aheadBy = 0
  }

  /** Nothing is claimed ahead, and how far it went before says nothing any more. */
  private forget(): void {
    if (this.aheadBy > 0) this.lost = this.aheadBy
    this.hold()
    this.proven = 0
  }

  /**
   * Nothing is claimed ahead for a while: what was had to wait, so handlers are no longer quick; or a task has come that
   * has seen a worker end, and what waits behind it would be counted among those that may have ended the next one.
   */
  beCautious(): void {
    this.forget()
    this.cautiousUntil = performance.now() + cautionMs
  }

  /** What was claimed ahead had to wait and went back: a quarter of it would have been enough. */
  waited(): void {
    this.beCautious()
    this.most = Math.max(leastAhead, Math.floor(this.lost / 4))
    this.waitedAt = performance.now()
  }

  look(wish: Wish): Look {
    const now = performance.now()
    const promote = now >= this.dueAt || now - this.promotedAt > promoteEveryMs
    if (promote) this.promotedAt = now
    this.lookedWithoutPromotion = !promote
    return { promote, wakeMs: this.wakeWish(wish, now) }
  }

  /** Asks to be notified while there are idle moments, and to be left alone while there are none. */
  private wakeWish(wish: Wish, now: number): number | null {
    if (!this.hearing()) return null
    if (this.emptyLooks > 0 || this.partialLooks > 0) {
      const wished = wish.stages.filter((stage) => !this.heldUntil.has(stage))
      if (wished.every((stage) => (this.wakeUntil.get(stage) ?? 0) - now > this.wakeForMs / 3)) return null
      for (const stage of wished) this.wakeUntil.set(stage, now + this.wakeForMs)
      return this.wakeForMs
    }
    if (now - this.busySince > 100 && wish.stages.some((stage) => this.wakeUntil.has(stage))) {
      for (const stage of wish.stages) this.wakeUntil.delete(stage)
      return 0
    }
    return null
  }

  /**
   * A look was answered. True when another one should follow before resting: not every stage was asked about, or
   * something may have been submitted between a look and its wish to be notified.
   */
  looked(wish: Wish, look: Look, got: Yield, { dueInMs, held }: Pick<Answer, 'dueInMs' | 'held'>): boolean {
    const now = performance.now()
    // Without a promotion something may have been put off, which is due before what was known, or held by a rate limit.
    this.dueAt = Math.min(look.promote ? Infinity : this.dueAt, now + (dueInMs ?? Infinity))
    for (const stage of wish.stages) this.heldUntil.delete(stage)
    for (const stage of held) {
      this.heldUntil.set(stage, now + (dueInMs ?? 0))
      this.wakeUntil.delete(stage)
    }
    this.batchFull = got.saturated
    this.lastRich = got.rich
    if (got.full) {
      this.emptyLooks = 0
      this.partialLooks = 0
      this.busySince = Math.min(this.busySince, now)
      return false
    }
    this.busySince = Infinity
    const wished =
      look.wakeMs !== null && look.wakeMs > 0 && wish.stages.some((stage) => !this.heldUntil.has(stage))
    if (got.claimed > 0) {
      this.emptyLooks = 1
      this.partialLooks = 0
      return wished
    }
    if (!wish.complete && ++this.partialLooks < this.stageCount) return true
    this.partialLooks = 0
    this.emptyLooks += 1
    return wished
  }

  /** A look failed: what was wished for with it must be wished for again. */
  failed(): void {
    this.batchFull = false
    this.lastRich = false
    this.hold()
    this.wakeUntil.clear()
    this.heldUntil.clear()
    this.dueAt = Infinity
    this.promotedAt = -Infinity
  }

  /** How long to rest. `open`: the stages with a free place; with none, only what ends wakes. */
  restMs(open: readonly string[]): number {
    const now = performance.now()
    const notified = open.every(
      (stage) => this.heldUntil.has(stage) || (this.hearing() && (this.wakeUntil.get(stage) ?? 0) > now),
    )
    const step = notified ? this.maxRestMs : Math.min(this.maxRestMs, 5 * 2 ** Math.min(this.emptyLooks, 12))
    const jittered = step * (0.75 + Math.random() / 4) // so that many runners do not look at the same moment
    if (open.length === 0) return this.maxRestMs
    const promotion = this.lookedWithoutPromotion ? this.promotedAt + promoteEveryMs - now : Infinity
    const held = Math.min(...open.map((stage) => this.heldUntil.get(stage) ?? Infinity))
    return Math.max(1, Math.min(jittered, this.dueAt - now, held - now, promotion + 1))
  }
}

/** What this thread has used at most in so many milliseconds, before which the process had used so much. */
function threadCpuMs(ms: number, before: number): number {
  return Math.min(ms, cpuMs() - before) // more than one thread can use was used by others
}

/** What this process has used so far. */
function cpuMs(): number {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}
