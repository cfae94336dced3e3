/**
 * Free places: how many more tasks may be taken, over all stages and of each.
 *
 * Invariant: places asked for are taken until the answer is here, so two exchanges never claim into the same one, and
 * no more tasks are held than the concurrency allows. When to ask is pace.ts.
 */
import { toMs } from '@leasehold/queue'
import type { AnyStage, Settings } from './options.ts'

/** A stage and its place in this runner. */
export interface Served {
  readonly stage: AnyStage
  readonly timeoutMs: number
  free: number
}

/** Places asked for. */
export interface Wish {
  readonly stages: string[]
  readonly limits: number[]
  readonly total: number
}

const defaultTimeoutMs = 30 * 60_000
/** From this many on, a second exchange beside the first one pays. */
export const batchSize = 32

/** The places of one runner. */
export class Capacity {
  /** Over all stages. */
  free: number
  private readonly served: Map<string, Served>
  private readonly names: string[]
  private readonly most: number
  private first = 0

  constructor({ stages, concurrency }: Pick<Settings, 'stages' | 'concurrency'>) {
    this.free = concurrency
    // Half at most, where halves are batches: the other half is for the second exchange.
    const half = Math.ceil(concurrency / 2)
    this.most = half >= batchSize ? half : concurrency
    this.names = stages.map((stage) => stage.name)
    this.served = new Map(
      stages.map((stage) => [
        stage.name,
        {
          stage,
          timeoutMs: stage.timeout === undefined ? defaultTimeoutMs : toMs(stage.timeout),
          free: Math.min(stage.concurrency ?? concurrency, concurrency),
        },
      ]),
    )
  }

  of(stage: string): Served {
    return this.served.get(stage)!
  }

  /** Reserves what an exchange may claim; null when nothing is free. Stages take turns in being first. */
  reserve(): Wish | null {
    if (this.free <= 0) return null
    const stages: string[] = []
    const limits: number[] = []
    let left = Math.min(this.free, this.most)
    for (let i = 0; i < this.names.length && left > 0; i++) {
      const name = this.names[(i + this.first) % this.names.length]!
      const granted = Math.min(left, this.of(name).free)
      if (granted <= 0) continue
      stages.push(name)
      limits.push(granted)
      left -= granted
    }
    this.first += 1
    if (stages.length === 0) return null
    const wish = { stages, limits, total: limits.reduce((sum, n) => sum + n, 0) }
    this.move(wish, -1)
    return wish
  }

  /** The answer is here: what was claimed takes its places one by one. */
  giveBack(wish: Wish | null): void {
    if (wish !== null) this.move(wish, 1)
  }

  take(stage: string): void {
    this.of(stage).free -= 1
    this.free -= 1
  }

  leave(stage: string): void {
    this.of(stage).free += 1
    this.free += 1
  }

  private move(wish: Wish, sign: 1 | -1): void {
    for (const [i, name] of wish.stages.entries()) this.of(name).free += sign * wish.limits[i]!
    this.free += sign * wish.total
  }
}
