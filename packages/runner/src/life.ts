/**
 * The life of one worker id: its heart beats, its loop turns, until it leaves in order or the database calls it ended.
 *
 * Invariants: beats stop last, after everything was settled or given back and the worker has left; no wait of an end
 * lasts longer than its limit, whatever the database does. Which slot, and what follows a life, is runner.ts.
 */
import { within } from '@leasehold/postgres'
import { type BeatAnswer, type Db, leave } from '@leasehold/queue'
import { Heart } from './heart.ts'
import { Loop } from './loop.ts'
import type { Settings } from './options.ts'
import type { Counts } from './settlement.ts'

/** What a life needs of its runner. */
export interface LifeHost {
  readonly settings: Settings
  readonly exchangeDb: Db
  readonly handlerDb: Db
  /** For leaving: never busy with an exchange. */
  readonly sideDb: Db
  readonly counts: Counts
  hearing(): boolean
  /** An operator has asked this worker to drain. */
  drainAsked(): void
}

/** How a life ended: it left, or the database had ended it for a reason. */
export type LifeEnd = { readonly left: true } | { readonly left: false; readonly reason: string }

const settleWithinMs = 5000
const settleInHurryMs = 2000
const leaveWithinMs = 3000

/** One worker id, from its registration on. */
export class Life {
  readonly workerId: string
  readonly loop: Loop
  private readonly host: LifeHost
  private readonly heart: Heart
  private readonly stopLoop = new AbortController()
  private readonly over = Promise.withResolvers<void>()
  private readonly emergency = new AbortController()
  private fault: Error | null = null
  private lostReason: string | null = null

  /** `registeredAtNs`: hrtime before the registration was sent; it counts as the first beat. */
  constructor(workerId: string, registeredAtNs: bigint, host: LifeHost) {
    const { settings } = host
    this.workerId = workerId
    this.host = host
    const { connectionString, slot, leaseTtlMs, wedgeLimitMs, log } = settings
    const { beatIntervalMs, workingBeatIntervalMs, maxRetryMs } = settings
    this.heart = new Heart(
      {
        connectionString,
        workerId,
        slot,
        beatIntervalMs,
        workingBeatIntervalMs,
        maxRetryMs,
        leaseTtlMs,
        wedgeLimitMs,
      },
      registeredAtNs,
      {
        answered: (answer) => this.beatAnswered(answer),
        failed: (message) =>
          log.warn({ event: 'beat.failed', message }, 'a beat was not acknowledged; trying again'),
        recovered: (failures) => log.info({ event: 'beat.back', failures }, 'beats are acknowledged again'),
        wedged: (loopAgeMs) =>
          log.error(
            { event: 'loop.wedged', loopAgeMs },
            'the main loop stood still; leases were not renewed',
          ),
        overdue: () => this.leasesOverdue(),
        stopped: (error) => this.heartStopped(error),
      },
    )
    // The registration counts as a beat; this one proves the thread and its connection.
    this.heart.beatNow()
    this.loop = new Loop({
      settings,
      exchangeDb: host.exchangeDb,
      handlerDb: host.handlerDb,
      workerId,
      log,
      counts: host.counts,
      leaseLeftMs: () => this.heart.leftMs,
      hearing: () => host.hearing(),
      turned: (held, oldestFence) => {
        this.heart.state.turn()
        this.heart.state.hold(held, oldestFence)
      },
      beatNow: () => this.heart.beatNow(),
      workerEnded: (reason) => this.lost(reason),
      drainAsked: () => host.drainAsked(),
    })
  }

  /** Milliseconds until the leases must be taken for lost. */
  get leaseLeftMs(): number {
    return this.heart.leftMs
  }

  /**
   * Works until `drain` or `hurry` aborts, then ends in order. Rejects on a fault in this program, or when the heartbeat
   * thread died; then too everything was given back that could be.
   */
  async run(drain: AbortSignal, hurry: AbortSignal): Promise<LifeEnd> {
    const begin = () => void this.windDown(hurry)
    if (drain.aborted || this.emergency.signal.aborted) begin()
    drain.addEventListener('abort', begin)
    this.emergency.signal.addEventListener('abort', begin)
    try {
      await Promise.race([this.loop.run(this.stopLoop.signal), this.over.promise])
      if (this.lostReason !== null) return { left: false, reason: this.lostReason }
      await within(leaveWithinMs, leave(this.host.sideDb, this.workerId, 'graceful-shutdown'))
      if (this.fault !== null) throw this.fault
      return { left: true }
    } finally {
      drain.removeEventListener('abort', begin)
      await this.heart.stop()
    }
  }

  private beatAnswered(answer: BeatAnswer): void {
    if (answer.state !== 'live') return this.lost(answer.reason ?? answer.state)
    this.host.settings.onBeat?.()
    this.loop.attempts.takeRevocations(answer.revoked)
    if (answer.drain) this.host.drainAsked()
  }

  /** This worker id is over: what runs is aborted, its settlements would be refused. */
  private lost(reason: string): void {
    if (this.lostReason !== null) return
    this.lostReason = reason
    this.loop.attempts.abortAll('lease-lost', `the worker was ended: ${reason}`)
    this.stop()
  }

  private leasesOverdue(): void {
    const running = this.loop.attempts.abortAll('lease-lost', 'no beat was acknowledged within the lease')
    if (running === 0) return
    const facts = { event: 'lease.deadline', running, workerId: this.workerId }
    this.host.settings.log.error(
      facts,
      'no beat was acknowledged in time: the leases must be taken for lost, handlers were aborted',
    )
  }

  private heartStopped(error: Error): void {
    this.fault = error
    this.host.settings.log.error(
      { event: 'heart.stopped', message: error.message },
      'the heartbeat thread died; what runs is given back',
    )
    this.emergency.abort()
  }

  /** Ends the loop; an exchange that hangs is not waited for much longer. */
  private stop(): void {
    this.stopLoop.abort()
    setTimeout(() => this.over.resolve(), settleInHurryMs).unref()
  }

  /** Claims nothing more, lets what runs finish within the drain limit, gives back the rest, settles, ends the loop. */
  private async windDown(hurry: AbortSignal): Promise<void> {
    const { loop, host } = this
    if (loop.draining) return
    loop.draining = true
    this.heart.state.drain()
    loop.wake()
    const stopNow = AbortSignal.any([hurry, this.emergency.signal])
    const empty = loop.ledger.whenEmpty()
    await within(host.settings.drainTimeoutMs, empty, AbortSignal.any([stopNow, this.stopLoop.signal]))
    const running = loop.attempts.abortAll('drain', 'the worker shuts down')
    if (running > 0)
      host.settings.log.warn(
        { event: 'drain.release', running },
        'the drain is over: what still runs is given back',
      )
    // The loop settles what has ended; a database that is away gets a moment, then leases simply run out.
    const settleMs = stopNow.aborted ? settleInHurryMs : settleWithinMs
    await within(settleMs, empty, this.stopLoop.signal)
    this.stop()
  }
}
