/**
 * Places: how many more tasks may be claimed, and how many may run, over all stages and of each.
 *
 * Invariants: no more handlers run than the concurrency allows. Places asked for are taken until the answer is here, so
 * two exchanges never claim into the same one, and no more tasks wait or run than there are places and, claiming ahead,
 * {@link aheadOfEach} more for each of them, at most two large batches in all; none is claimed ahead beside a stage that
 * {@link wantsNoneAhead}. Every stage with a place is asked about in its turn, however much the others have to do. When to
 * ask, and when ahead, is pace.ts.
 */
import { type ClaimedTask, toMs } from '@leasehold/queue'
import type { AnyStage, Settings } from './options.ts'

/** A stage and its places in this runner. */
export interface Served {
  readonly stage: AnyStage
  readonly timeoutMs: number
  /** How many may run at once. */
  readonly size: number
  running: number
  /** Places neither taken nor asked for; below zero for what was claimed ahead. */
  free: number
  /** The last answer brought as many of its tasks as were asked for: it gets the places that are left over. */
  rich: boolean
}

/** Who holds a place. */
export interface Held {
  readonly served: Served
  readonly delicate: boolean
}

/** Places asked for. */
export interface Wish {
  readonly stages: string[]
  readonly limits: number[]
  readonly total: number
  /** Every stage with a free place is in it. */
  readonly complete: boolean
}

/** What an answer says about how much there is to do. */
export interface Yield {
  readonly claimed: number
  /** All places asked for were filled. */
  readonly full: boolean
  /** Some stage has more than it was asked for. */
  readonly rich: boolean
  /** Some stage filled a whole batch: more is there. */
  readonly saturated: boolean
}

/** Of a stage that says nothing; the database is told the same. */
export const defaultTimeoutMs: number = 30 * 60_000
/** From this many on, a second exchange beside the first one pays. */
const batchSize = 32
/** What an exchange costs whatever it brings is hardly felt in one of so many; ahead, none claims more. */
export const largeBatch = 1000
/** A crash counts for all that a worker holds, and its memory was sized for what it runs: few places, few ahead. */
export const aheadOfEach = 64
/** An attempt that may take less than this must not lose a part of it to waiting, nor to a large exchange. */
const leastTimeoutMs = 10_000

/**
 * Characters of payload in one answer, about: what comes next is taken to be as large as what came last. A worker with
 * hundreds of places must not be ended by payloads of a megabyte each, which would count as a crash of all its tasks.
 */
const answerCharacters = 16_000_000
/** Of one payload, while none was seen. */
const unseenCharacters = 250_000
/** What is taken for granted of the next payloads falls by so much with each answer of smaller ones. */
const forgetting = 0.75

/**
 * Whether its tasks must not wait in a worker: a claim has started for a rate limit, a short timeout has begun with it, and
 * where a single crash is too many, a crash is not to count for tasks that had not begun.
 */
function wantsNoneAhead({ limits, timeout }: AnyStage): boolean {
  const short = timeout !== undefined && toMs(timeout) < leastTimeoutMs
  return limits?.rate !== undefined || limits?.crashes === 1 || short
}

/** Whether such a task makes claiming ahead a risk: a worker has ended with it, or its own timeout is short. */
export function isDelicate({ extra }: ClaimedTask): boolean {
  return extra !== null && (extra.crashes !== undefined || (extra.timeout_ms ?? Infinity) < leastTimeoutMs)
}

/** The places of one runner. */
export class Capacity {
  /** Over all stages, as in {@link Served}. */
  free: number
  running = 0
  /** How many have finished. */
  finished = 0
  /** Such as hold a place and suffer nothing that was claimed ahead beside them. */
  private delicate = 0
  private readonly size: number
  /** Too few places for two batches. */
  private readonly small: boolean
  private readonly noneAhead: boolean
  private readonly all: Served[]
  private readonly byName: Map<string, Served>
  private first = 0
  /** Of one payload: as in the last answer; it falls slowly, so that a few small answers do not open the gates. */
  private payloadCharacters = unseenCharacters

  constructor({
    stages,
    concurrency,
    stageConcurrency,
  }: Pick<Settings, 'stages' | 'concurrency' | 'stageConcurrency'>) {
    this.free = concurrency
    this.size = concurrency
    this.small = concurrency / 2 < batchSize
    this.noneAhead = stages.some(wantsNoneAhead)
    this.all = stages.map((stage) => {
      const size = Math.min(stage.concurrency ?? stageConcurrency, concurrency)
      const timeoutMs = stage.timeout === undefined ? defaultTimeoutMs : toMs(stage.timeout)
      return { stage, timeoutMs, size, running: 0, free: size, rich: false }
    })
    this.byName = new Map(this.all.map((served) => [served.stage.name, served]))
  }

  of(stage: string): Served {
    return this.byName.get(stage)!
  }

  /** The most that may be claimed ahead. */
  get mostAhead(): number {
    return this.noneAhead ? 0 : Math.max(0, Math.min(aheadOfEach * this.size, 2 * largeBatch - this.size))
  }

  /**
   * The places in which no handler runs, over all or of the stage that has the fewest: room for what is claimed ahead. None
   * beside a task that is delicate.
   */
  get room(): number {
    if (this.delicate > 0) return 0
    return this.all.reduce(
      (least, { running, size }) => Math.min(least, size - running),
      this.size - this.running,
    )
  }

  /** The stages that have a free place; none when nothing is free over all. */
  openStages(): string[] {
    if (this.free <= 0) return []
    return this.all.filter((served) => served.free > 0).map((served) => served.stage.name)
  }

  /** Reserves what an exchange may claim; null when nothing is free. `ahead`: so many more may wait for their places. */
  reserve(ahead: number): Wish | null {
    // Two exchanges share the places: half of them may be under way in each.
    const beyond = Math.min(ahead, this.mostAhead)
    if (this.free + beyond <= 0) return null
    // Half at most, where halves are worth it: the other half is for the second exchange.
    const half = this.small && beyond === 0 ? this.size : Math.ceil((this.size + beyond) / 2)
    let left = Math.min(this.free + beyond, half, this.bearable())
    const freeOf = (served: Served): number => served.free + beyond
    const asked: Served[] = []
    let open = 0
    for (let i = 0; i < this.all.length; i++) {
      const served = this.all[(i + this.first) % this.all.length]!
      if (freeOf(served) <= 0) continue
      open += 1
      if (left > 0) {
        asked.push(served)
        left -= 1
      }
    }
    this.first += 1
    if (asked.length === 0) return null
    const limits = asked.map(() => 1)
    for (const rich of [true, false]) {
      for (let i = 0; i < asked.length && left > 0; i++) {
        if (asked[i]!.rich !== rich) continue
        const more = Math.min(left, freeOf(asked[i]!) - 1)
        limits[i]! += more
        left -= more
      }
    }
    const total = limits.reduce((sum, n) => sum + n, 0)
    const wish = { stages: asked.map((s) => s.stage.name), limits, total, complete: asked.length === open }
    this.move(wish, -1)
    return wish
  }

  /** How many payloads of the present size one answer may bring. */
  private bearable(): number {
    return Math.max(1, Math.floor(answerCharacters / this.payloadCharacters))
  }

  /** There is no answer: the places are free again. */
  giveBack(wish: Wish | null): void {
    if (wish !== null) this.move(wish, 1)
  }

  /** The answer is here: places are free again until what was claimed takes them one by one. */
  answered(wish: Wish, claimed: readonly ClaimedTask[], characters: number): Yield {
    this.move(wish, 1)
    if (claimed.length > 0) {
      this.payloadCharacters = Math.max(characters / claimed.length, this.payloadCharacters * forgetting)
    }
    let someRich = false
    let saturated = false
    let next = 0 // tasks come stage by stage, in the order of the wish
    for (const [i, name] of wish.stages.entries()) {
      const from = next
      while (next < claimed.length && claimed[next]!.stage === name) next += 1
      const rich = next - from >= wish.limits[i]!
      this.of(name).rich = rich
      someRich ||= rich
      saturated ||= rich && wish.limits[i]! >= batchSize
    }
    return { claimed: claimed.length, full: claimed.length >= wish.total, rich: someRich, saturated }
  }

  take({ served, delicate }: Held): void {
    served.free -= 1
    this.free -= 1
    if (delicate) this.delicate += 1
  }

  leave({ served, delicate }: Held): void {
    served.free += 1
    this.free += 1
    if (delicate) this.delicate -= 1
  }

  /** Whether one more of this stage may run; if so it counts as running. */
  begin(served: Served): boolean {
    if (this.running >= this.size || served.running >= served.size) return false
    served.running += 1
    this.running += 1
    return true
  }

  finish(served: Served): void {
    served.running -= 1
    this.running -= 1
    this.finished += 1
  }

  private move(wish: Wish, sign: 1 | -1): void {
    for (const [i, name] of wish.stages.entries()) this.of(name).free += sign * wish.limits[i]!
    this.free += sign * wish.total
  }
}
