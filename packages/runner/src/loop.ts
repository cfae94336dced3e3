/**
 * The main loop: one exchange in flight. What finished meanwhile is settled and what is free is filled, in one
 * statement and one commit; idle it is a single task's latency, busy it is a batch, and there are no flush timers.
 * While every look comes back full a second exchange flies beside it, so that the database works on one batch while this
 * process works on the other: with half of the places, and, where most handlers end at once, with more than can run, which
 * wait for their places (measured on two cores: 1.5 times the rate of one exchange, and 1.4 times that with large batches).
 *
 * Invariants: no more handlers run than the concurrency allows; nothing is claimed while draining, while the self-deadline
 * has passed, or when the database calls this worker dead. Keeps going through any outage. Who starts and ends it:
 * life.ts. What runs meanwhile: attempts.ts.
 */
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Db } from '@leasehold/queue'
import { OutageLog, retryDelayMs, sleep } from '@leasehold/postgres'
import { Attempts } from './attempts.ts'
import { Capacity, isDelicate } from './capacity.ts'
import { Crowding, type Turnstile, turnstileOf } from './crowding.ts'
import { type Batch, Ledger } from './ledger.ts'
import type { RunnerLog, Settings } from './options.ts'
import { pauseInSteps, stepOf } from './pause.ts'
import { Pace } from './pace.ts'
import {
  type Answer,
  type Counts,
  isAboutValues,
  isAnswerLost,
  Settlement,
  WorkerNotLive,
} from './settlement.ts'

/** What the loop needs from the life around it. */
export interface LoopHost {
  readonly settings: Settings
  readonly exchangeDb: Db
  readonly handlerDb: Db
  readonly workerId: string
  readonly log: RunnerLog
  readonly counts: Counts
  /** Milliseconds until the leases must be taken for lost. */
  leaseLeftMs(): number
  /** Whether notifications arrive; if not, idle polls are shorter. */
  hearing(): boolean
  turned(held: number, oldestFence: bigint): void
  beatNow(): void
  /** The database says that this worker has ended (lost, superseded …) or asks it to drain. */
  workerEnded(reason: string): void
  drainAsked(): void
}

const glanceEveryMs = 100
/** Who claims so many ahead, or more, has large exchanges. */
const largeAhead = 64
/** Nobody waits longer than this for the large exchanges of others: what has ended must be settled. */
const patienceMs = 5000

/** The loop of one worker id. */
export class Loop {
  readonly ledger: Ledger = new Ledger()
  readonly attempts: Attempts
  /** Nothing more is claimed. */
  draining = false

  private readonly host: LoopHost
  private readonly capacity: Capacity
  private readonly pace: Pace
  private readonly crowding = new Crowding()
  private readonly turnstile: Turnstile
  /** What ends the waits of this worker at the turnstile. */
  private readonly waitingTurns = new Set<() => void>()
  private readonly settlement: Settlement
  private readonly outage = new OutageLog()
  private outageSaid = false
  private stop: AbortSignal = new AbortController().signal
  private woken = false
  private wakeUp: (() => void) | null = null
  private assistant: Promise<void> | null = null
  private fault: Error | null = null
  /** What was the highest fence when each exchange that is under way was sent. */
  private readonly inFlight = new Set<{ readonly above: bigint }>()
  private oldestFence = 1n
  private oldestSoughtAt = -Infinity
  private exchangedAt = -Infinity
  /** Beats asked for since the self-deadline passed. */
  private overdueBeats = 0
  /** It was woken with nothing to say and no place free: a lease may have been taken away. */
  private glanceWished = false

  constructor(host: LoopHost) {
    this.host = host
    this.capacity = new Capacity(host.settings)
    this.pace = new Pace(host.settings, () => host.hearing(), this.capacity.mostAhead)
    this.turnstile = turnstileOf(host.settings.connectionString)
    this.settlement = new Settlement({
      db: host.exchangeDb,
      workerId: host.workerId,
      runId: host.settings.runFilterId ?? null,
      ledger: this.ledger,
      counts: host.counts,
      log: host.log,
    })
    this.attempts = new Attempts(host, this.ledger, this.capacity, {
      wake: () => this.wake(),
      waited: () => this.pace.waited(),
    })
  }

  /** Something may have changed: look at once instead of at the end of the wait. */
  wake(): void {
    this.woken = true
    this.wakeUp?.()
    if (this.draining || this.stop.aborted) for (const go of this.waitingTurns) go()
  }

  /** Runs until `stop` aborts. Rejects only on a fault in this program. */
  async run(stop: AbortSignal): Promise<void> {
    this.stop = stop
    const onStop = () => this.wake()
    stop.addEventListener('abort', onStop)
    try {
      while (!stop.aborted) {
        if (this.settlement.strayLookDue) await this.assistant
        if (this.fault !== null) throw this.fault
        const { moved } = await this.turnInOrder()
        if (moved === 0) await this.rest()
        await nextTurn() // handlers that end at once end here, all of them, before the next exchange
        this.pace.turned(this.capacity)
        if (this.assistant === null && this.needsAssistant) this.assistant = this.assist()
      }
      await this.assistant
    } finally {
      stop.removeEventListener('abort', onStop)
      this.attempts.close()
    }
  }

  /** A second exchange beside the loop's pays while looks come back full, unless it only makes everybody's longer. */
  private get needsAssistant(): boolean {
    const { saturated, ahead } = this.pace
    return saturated && !(ahead > 0 && this.crowding.crowded) && !this.settlement.strayLookDue
  }

  /** The second exchange. */
  private async assist(): Promise<void> {
    try {
      do {
        const { moved } = await this.turnInOrder()
        if (moved === 0) break
        await nextTurn()
        this.pace.turned(this.capacity)
      } while (this.needsAssistant && !this.stop.aborted)
    } catch (error) {
      this.fault = error as Error
      this.wake()
    } finally {
      this.assistant = null
    }
  }

  /** A turn; with a large exchange, after those of the other workers in this process that have one. */
  private async turnInOrder(): Promise<{ moved: number }> {
    if (this.pace.ahead < largeAhead || this.draining || this.host.leaseLeftMs() <= 0) return this.turn()
    const mostMs = Math.min(patienceMs, stepOf(this.host.settings))
    const leave = await this.turnstile.enter(mostMs, this.waitingTurns)
    try {
      return this.stop.aborted ? { moved: 0 } : await this.turn(leave)
    } finally {
      process.nextTick(leave) // who comes next is not to be counted among this one's handlers
    }
  }

  /** One exchange with all that follows from it. `moved`: tasks claimed; with none there is time to rest. `leave`: before a pause. */
  async turn(leave: () => void = () => {}): Promise<{ moved: number }> {
    const { host, ledger } = this
    this.glanceWished ||= this.woken
    this.woken = false
    this.sayTurned()
    if (host.leaseLeftMs() <= 0) {
      leave()
      return this.waitForBeat()
    }
    this.overdueBeats = 0
    const batch = ledger.takeBatch()
    const wish = this.draining ? null : this.capacity.reserve(this.pace.ahead)
    const strays = this.assistant === null && this.settlement.strayLookDue
    const sentAt = performance.now()
    let askedAt = sentAt
    const silent = batch.ended.length === 0 && batch.notes.length === 0 && wish === null && !strays
    if (silent && !(ledger.held.size > 0 && this.glanceInMs() <= 0)) return { moved: 0 }
    this.exchangedAt = sentAt
    this.glanceWished = false
    const look = wish === null ? null : this.pace.look(wish)
    const flight = { above: this.attempts.maxFence }
    this.inFlight.add(flight)
    let answer: Answer
    try {
      if (strays) await this.settlement.lookForStrays()
      askedAt = performance.now()
      answer = await this.settlement.exchange(batch, wish, look)
    } catch (error) {
      this.capacity.giveBack(wish)
      leave()
      return await this.exchangeFailed(error as Error & { code?: string }, batch)
    } finally {
      this.inFlight.delete(flight)
    }
    this.answered()
    this.crowding.took(performance.now() - askedAt, batch.ended.length + answer.claimed.length)
    const got = wish === null ? null : this.capacity.answered(wish, answer.claimed, answer.characters)
    if (got !== null) this.pace.begins(got, this.capacity.finished)
    if (answer.claimed.some(isDelicate) || answer.held.length > 0) this.pace.beCautious()
    // An exchange that was under way when the end began may bring tasks still.
    const tooLate = this.draining || this.stop.aborted || host.leaseLeftMs() <= 0
    // First what was taken away: a task that was cancelled and retried may come back in the same answer.
    this.attempts.takeRevocations(answer.revoked)
    for (const task of answer.claimed) this.attempts.start(task, sentAt, tooLate)
    process.nextTick(() => this.pace.started(this.capacity.finished)) // after what they do without waiting, before any other worker
    if (got !== null && this.pace.looked(wish!, look!, got, answer)) this.woken = true
    if (answer.drainAsked) host.drainAsked()
    return { moved: answer.claimed.length }
  }

  // ------------------------------------------------------------------------------------------- when it goes wrong

  private answered(): void {
    if (this.outage.count === 0) return
    const failures = this.outage.recovered()
    if (!this.outageSaid) return
    this.outageSaid = false
    this.host.log.info({ event: 'database.back', failures }, 'the database answers again')
  }

  private async exchangeFailed(error: Error & { code?: string }, batch: Batch): Promise<{ moved: number }> {
    this.pace.failed()
    if (isAboutValues(error) && batch.ended.length + batch.notes.length > 0) {
      try {
        await this.settlement.apart(batch, error)
        return { moved: 1 }
      } catch (e) {
        error = e as Error
      }
    }
    const { ledger } = this
    ledger.putBack(batch)
    if (error instanceof WorkerNotLive) return this.notLive(error)
    if (isAnswerLost(error)) this.settlement.suspectStrays()
    if (this.outage.failed()) {
      this.outageSaid = true
      const facts = {
        event: 'exchange.failed',
        code: error.code,
        message: error.message,
        tries: this.outage.count,
      }
      this.host.log.warn(facts, 'the database cannot be used; trying again')
    }
    // What runs ends soon and must be settled; who holds nothing may leave a database in trouble alone for longer.
    const mostMs = ledger.held.size > 0 ? undefined : this.host.settings.maxRetryMs
    await this.pause(retryDelayMs(this.outage.count, mostMs))
    return { moved: 0 }
  }

  private async notLive({ state, reason }: WorkerNotLive): Promise<{ moved: number }> {
    if (state !== 'expired') {
      this.host.workerEnded(reason)
      return { moved: 0 }
    }
    // Nobody has released us yet: a beat renews everything, then the same is sent again.
    this.host.beatNow()
    await sleep(retryDelayMs(1), this.stop)
    return { moved: 0 }
  }

  /** The self-deadline has passed and handlers were told; until a beat is acknowledged nothing is ours. */
  private async waitForBeat(): Promise<{ moved: number }> {
    const { beatIntervalMs, maxRetryMs } = this.host.settings
    this.host.beatNow()
    this.overdueBeats += 1
    // With the default of maxRetryMs a second; the heart itself tries again as well, and its success ends this.
    const ms = Math.min(beatIntervalMs, Math.max(1000, retryDelayMs(this.overdueBeats, maxRetryMs / 5)))
    await this.pause(ms, () => this.host.leaseLeftMs() > 0)
    return { moved: 0 }
  }

  private pause(ms: number, over?: () => boolean): Promise<void> {
    const stepMs = Math.min(stepOf(this.host.settings), over === undefined ? Infinity : 500)
    return pauseInSteps(ms, {
      stepMs,
      stop: this.stop,
      turned: () => this.sayTurned(),
      ...(over && { over }),
    })
  }

  // ----------------------------------------------------------------------------------------------------- rest

  private async rest(): Promise<void> {
    const until = performance.now() + this.pace.restMs(this.draining ? [] : this.capacity.openStages())
    do {
      if (this.woken || this.stop.aborted || this.ledger.hasEnded || this.host.leaseLeftMs() <= 0) return
      // In steps: a loop that turns too rarely would look like one that stands still.
      const limits = [until - performance.now(), this.host.leaseLeftMs(), stepOf(this.host.settings)]
      if (this.ledger.held.size > 0) limits.push(this.glanceInMs())
      await this.restFor(Math.max(1, Math.min(...limits)))
      this.sayTurned()
    } while (performance.now() < until && !(this.ledger.held.size > 0 && this.glanceInMs() <= 0))
  }

  /** Rests so long, or until something wakes the loop. */
  private restFor(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer)
        this.wakeUp = null
        resolve()
      }
      const timer = setTimeout(done, ms)
      this.wakeUp = done
    })
  }

  /**
   * How long until an exchange is due that has nothing to say. With every place taken there may be nothing for long, and
   * what was cancelled meanwhile still has to be heard; but not each submission is worth one.
   */
  private glanceInMs(): number {
    const everyMs = this.glanceWished ? glanceEveryMs : this.host.settings.maxPollMs
    return this.exchangedAt + everyMs - performance.now()
  }

  private sayTurned(): void {
    this.sayWhatIsHeld()
    this.host.settings.onTurn?.()
  }

  /** The oldest fence that is or may still become ours; looked for now and then, it is needed once per beat. */
  private sayWhatIsHeld(): void {
    const now = performance.now()
    if (now - this.oldestSoughtAt > this.host.settings.beatIntervalMs / 4 && !this.settlement.mayHaveStrays) {
      this.oldestSoughtAt = now
      let oldest = this.attempts.maxFence + 1n
      for (const { above } of this.inFlight) if (above < oldest) oldest = above + 1n
      for (const { fence } of this.ledger.held.all()) {
        const own = BigInt(fence)
        if (own < oldest) oldest = own
      }
      this.oldestFence = oldest
    }
    this.host.turned(this.ledger.held.size, this.oldestFence)
  }
}
