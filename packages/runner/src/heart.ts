/**
 * The main thread's side of a worker's heartbeat: hears its answers, keeps the self-deadline.
 *
 * The self-deadline is monotonic and counted from before the last acknowledged beat was sent; past it this process
 * must assume that its leases are gone, whatever the database might have said since. It has a timer of its own, so that
 * it is kept also while the main loop waits for a database that does not answer.
 */
import type { BeatAnswer } from '@leasehold/queue'
import type { BeatData, BeatMessage } from './beat-thread.ts'
import { type Beating, startBeating } from './beating.ts'
import { makeSharedState, type SharedState } from './shared-state.ts'

/** Called as the thread reports. */
export interface HeartListener {
  answered(answer: BeatAnswer): void
  failed(message: string): void
  recovered(failures: number): void
  wedged(loopAgeMs: number): void
  /** No beat was acknowledged for so long that the leases must be taken for lost; said once until one is. */
  overdue(): void
  /** The thread itself ended although nobody stopped it: nothing renews the leases any more. */
  stopped(error: Error): void
}

/** The beating of one worker id. */
export class Heart {
  readonly state: SharedState
  private readonly beating: Beating
  private readonly listener: HeartListener
  private readonly lastsMs: number
  private readonly beatIntervalMs: number
  private guardTimer: NodeJS.Timeout | null = null
  private overdueSaid = false
  private stopping = false

  constructor(data: Omit<BeatData, 'memory'>, registeredAtNs: bigint, listener: HeartListener) {
    this.listener = listener
    this.state = makeSharedState(registeredAtNs)
    this.lastsMs = data.leaseTtlMs * 0.8
    this.beatIntervalMs = data.beatIntervalMs
    this.beating = startBeating(
      { ...data, memory: this.state.memory },
      { heard: (message) => this.heard(message), died: (error) => this.ended(error) },
    )
    this.guardTimer = setTimeout(() => this.guard(), Math.max(0, this.leftMs))
  }

  private heard(message: BeatMessage): void {
    if (this.stopping) return
    if (message.type === 'answer') this.listener.answered(message.answer)
    else if (message.type === 'failed') this.listener.failed(message.message)
    else if (message.type === 'recovered') this.listener.recovered(message.failures)
    else this.listener.wedged(message.loopAgeMs)
  }

  private ended(error: Error): void {
    if (this.stopping) return
    this.stopping = true
    this.listener.stopped(error)
  }

  private guard(): void {
    const left = this.leftMs
    if (left > 0) this.overdueSaid = false
    else if (!this.overdueSaid) {
      this.overdueSaid = true
      this.listener.overdue()
    }
    this.guardTimer = setTimeout(() => this.guard(), left > 0 ? left + 1 : this.beatIntervalMs)
  }

  /** Milliseconds until the leases must be taken for lost; negative when they must be now. */
  get leftMs(): number {
    return this.lastsMs - this.state.ackAgeMs
  }

  /** Beats right away instead of at the next interval. */
  beatNow(): void {
    this.beating.now()
  }

  /** Stops beating. The last thing a runner does. */
  async stop(): Promise<void> {
    this.stopping = true
    clearTimeout(this.guardTimer ?? undefined)
    await this.beating.stop()
  }
}
