/**
 * The main loop: one exchange in flight. What finished meanwhile is settled and what is free is filled, in one
 * statement and one commit; idle it is a single task's latency, busy it is a batch, and there are no flush timers.
 * While every look comes back full a second exchange flies beside it with half of the places, so that the database
 * works on one batch while this process works on the other (measured: 1.5 times the rate of one on two cores).
 *
 * Invariants: never more held than the concurrency allows; nothing is claimed while draining, while the self-deadline
 * has passed, or when the database calls this worker dead. Keeps going through any outage. Who starts and ends it:
 * runner.ts. What an attempt is: execution.ts.
 */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { type ClaimedRow, type Db, exchange, type Receipt, toMs } from '@leasehold/queue'
import { OutageLog, retryDelayMs, sleep } from '@leasehold/postgres'
import { AttemptAborted, Execution, type Surroundings } from './execution.ts'
import { type Batch, Ledger } from './ledger.ts'
import type { AnyStage, RunnerLog, Settings } from './options.ts'

/** What the loop needs from the runner around it. */
export interface LoopHost {
  readonly settings: Settings
  readonly exchangeDb: Db
  readonly handlerDb: Db
  readonly workerId: string
  readonly log: RunnerLog
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

const defaultTimeoutMs = 30 * 60_000
const wakeForMs = 15_000
const stuckGraceMs = 5_000
/** From this many on, a second exchange pays. */
const batchSize = 32

export class Loop {
  readonly ledger: Ledger = new Ledger()
  /** Tasks claimed, settled and refused since the start, and handlers that outlived their attempt. */
  readonly counts: { claimed: number; settled: number; refused: number; stuck: number; exchanges: number } = {
    claimed: 0,
    settled: 0,
    refused: 0,
    stuck: 0,
    exchanges: 0,
  }
  draining = false

  private readonly host: LoopHost
  private readonly stages: Map<string, { stage: AnyStage; timeoutMs: number; free: number }>
  private readonly around: Surroundings
  private readonly outage = new OutageLog()
  private freeTotal: number
  private stageOffset = 0
  private maxFence = 0n
  private earliestDeadline = Infinity
  private wakeUp: (() => void) | null = null
  private woken = false
  private emptyLooks = 0
  private wakeUntil = 0
  /** Since when every look was full; Infinity while there are idle moments. */
  private busySince = Infinity
  private dueAt = Infinity
  private promotedAt = 0
  private notesAt = 0
  /** The last look brought as much as it asked for, and that was a batch. */
  private saturated = false
  private assistant: Promise<void> | null = null
  private readonly inFlight = new Set<{ readonly above: bigint }>()
  private saidAt = -Infinity
  private oldestFence = 1n

  constructor(host: LoopHost) {
    this.host = host
    this.freeTotal = host.settings.concurrency
    this.stages = new Map(
      host.settings.stages.map((stage) => [
        stage.name,
        {
          stage,
          timeoutMs: stage.timeout === undefined ? defaultTimeoutMs : toMs(stage.timeout),
          free: Math.min(stage.concurrency ?? host.settings.concurrency, host.settings.concurrency),
        },
      ]),
    )
    this.around = {
      workerId: host.workerId,
      handlerDb: host.handlerDb,
      ended: (execution) => this.executionEnded(execution),
      noted: (execution) => this.ledger.note(execution),
      late: (execution) => this.handlerCameLate(execution),
    }
  }

  /** Something may have changed: look at once instead of at the end of the wait. */
  wake(): void {
    this.woken = true
    this.wakeUp?.()
  }

  /** Runs until `stop` aborts. Rejects only on a fault in this program. */
  async run(stop: AbortSignal): Promise<void> {
    const onStop = () => this.wake()
    stop.addEventListener('abort', onStop)
    while (!stop.aborted) {
      const { moved } = await this.turn()
      if (moved === 0 && !stop.aborted) await this.rest()
      await nextTurn() // handlers that end at once end here, all of them, before the next exchange
      if (this.saturated && this.assistant === null) this.assistant = this.assist(stop)
    }
    stop.removeEventListener('abort', onStop)
    await this.assistant
  }

  /** The second exchange: only while looks come back full. */
  private async assist(stop: AbortSignal): Promise<void> {
    while (this.saturated && !stop.aborted) {
      const { moved } = await this.turn()
      if (moved === 0) break
      await nextTurn()
    }
    this.assistant = null
  }

  /** One exchange with all that follows from it. `moved`: tasks claimed; with none there is time to rest. */
  async turn(): Promise<{ moved: number }> {
    const { host, ledger } = this
    this.sayWhatIsHeld()
    host.settings.onTurn?.()
    this.endOverdue()
    if (host.leaseLeftMs() <= 0) return this.leaseRanOut()
    const batch = ledger.takeBatch()
    const request = this.whatToClaim()
    if (batch.executions.length === 0 && batch.report.notes === null && request.stages === null) return { moved: 0 }
    const flight = { above: this.maxFence }
    this.inFlight.add(flight)
    try {
      this.counts.exchanges += 1
      const { receipt, claimed } = await exchange(host.exchangeDb, {
        workerId: host.workerId,
        ...batch.report,
        ...request,
        runId: host.settings.runFilterId ?? null,
      })
      const failures = this.outage.recovered()
      if (failures > 0) host.log.info({ event: 'database.back', failures }, 'the database answers again')
      if (receipt.worker !== 'live') {
        this.giveBack(request)
        return await this.notLive(receipt, batch)
      }
      this.acknowledge(receipt, batch)
      this.giveBack(request)
      if (request.promote) this.dueAt = performance.now() + (receipt.due_in_ms ?? Infinity)
      for (const row of claimed) this.start(row)
      this.noteIdleness(request, claimed.length)
      return { moved: claimed.length }
    } catch (error) {
      this.giveBack(request)
      return await this.exchangeFailed(error as Error & { code?: string }, batch)
    } finally {
      this.inFlight.delete(flight)
    }
  }

  // ------------------------------------------------------------------------------------------ what to ask for

  private whatToClaim(): {
    stages: string[] | null
    limits: number[] | null
    promote: boolean
    wakeMs: number | null
  } {
    const now = performance.now()
    const nothing = { stages: null, limits: null, promote: false, wakeMs: null }
    if (this.draining || this.freeTotal <= 0) return nothing
    const names: string[] = []
    const limits: number[] = []
    // Half at most, where halves are batches: the other half is for the second exchange.
    const half = Math.ceil(this.host.settings.concurrency / 2)
    let left = half >= batchSize ? Math.min(this.freeTotal, half) : this.freeTotal
    const all = [...this.stages.keys()]
    for (let i = 0; i < all.length && left > 0; i++) {
      const name = all[(i + this.stageOffset) % all.length]!
      const granted = Math.min(left, this.stages.get(name)!.free)
      if (granted <= 0) continue
      names.push(name)
      limits.push(granted)
      left -= granted
    }
    this.stageOffset += 1
    if (names.length === 0) return nothing
    this.reserve(names, limits, -1)
    const promote = now >= this.dueAt || now - this.promotedAt > 200
    if (promote) this.promotedAt = now
    return { stages: names, limits, promote, wakeMs: this.wakeWish(now) }
  }

  /** Places asked for are taken until the answer is here, so that two exchanges never claim into the same one. */
  private reserve(names: string[], limits: number[], sign: 1 | -1): void {
    for (const [i, name] of names.entries()) {
      this.stages.get(name)!.free += sign * limits[i]!
      this.freeTotal += sign * limits[i]!
    }
  }

  private giveBack(request: { stages: string[] | null; limits: number[] | null }): void {
    if (request.stages !== null) this.reserve(request.stages, request.limits!, 1)
  }

  /** Asks to be notified while there are idle moments, and to be left alone while there are none. */
  private wakeWish(now: number): number | null {
    if (!this.host.hearing()) return null
    if (this.emptyLooks > 0) {
      if (this.wakeUntil - now > wakeForMs / 3) return null
      this.wakeUntil = now + wakeForMs
      return wakeForMs
    }
    if (this.wakeUntil > 0 && now - this.busySince > 100) {
      this.wakeUntil = 0
      return 0
    }
    return null
  }

  private noteIdleness(request: { stages: string[] | null; limits: number[] | null; wakeMs: number | null }, claimed: number): void {
    if (request.stages === null) return
    const wanted = request.limits!.reduce((sum, n) => sum + n, 0)
    this.saturated = claimed >= wanted && wanted >= batchSize
    if (claimed >= wanted) {
      this.emptyLooks = 0
      this.busySince = Math.min(this.busySince, performance.now())
      return
    }
    this.busySince = Infinity
    this.emptyLooks = claimed > 0 ? 1 : this.emptyLooks + 1
    // Between the look and the wish to be woken something may have been submitted: look once more before resting.
    if (request.wakeMs !== null && request.wakeMs > 0) this.woken = true
  }

  // ------------------------------------------------------------------------------------------------ executions

  private start(row: ClaimedRow): void {
    const own = this.stages.get(row[2])!
    const execution = new Execution(row, own.stage, own.timeoutMs, this.around)
    own.free -= 1
    this.freeTotal -= 1
    this.counts.claimed += 1
    const fence = BigInt(row[1])
    if (fence > this.maxFence) this.maxFence = fence
    this.ledger.hold(execution)
    if (execution.deadlineAt < this.earliestDeadline) this.earliestDeadline = execution.deadlineAt
    void execution.run()
  }

  private executionEnded(execution: Execution): void {
    this.ledger.end(execution)
    if (!execution.abandoned) this.freeSlot(execution)
    else {
      // The slot stays taken until the handler comes back, or until it is clear that it will not.
      this.counts.stuck += 1
      const timer = setTimeout(() => this.giveUpOn(execution), stuckGraceMs)
      timer.unref()
    }
    this.wakeUp?.()
  }

  private freeSlot(execution: Execution): void {
    if (execution.freed) return
    execution.freed = true
    this.stages.get(execution.stage.name)!.free += 1
    this.freeTotal += 1
    this.wakeUp?.()
  }

  private giveUpOn(execution: Execution): void {
    if (execution.freed) return
    const facts = { event: 'handler.stuck', taskId: execution.taskId, fence: execution.fence, stage: execution.stage.name }
    this.host.log.warn({ ...facts, stuck: this.counts.stuck }, 'a handler ignores its abort signal; its place is given to others')
    this.freeSlot(execution)
  }

  private handlerCameLate(execution: Execution): void {
    this.counts.stuck -= 1
    this.freeSlot(execution)
    const facts = { event: 'handler.late', taskId: execution.taskId, fence: execution.fence, stage: execution.stage.name }
    this.host.log.warn(facts, 'a handler came back after its attempt had ended; its outcome was ignored')
  }

  private endOverdue(): void {
    const now = performance.now()
    if (now < this.earliestDeadline) return
    this.earliestDeadline = Infinity
    for (const execution of this.ledger.held.values()) {
      if (execution.end !== null) continue
      if (execution.deadlineAt <= now) execution.abort(new AttemptAborted('timeout', 'the attempt took longer than its timeout'))
      else if (execution.deadlineAt < this.earliestDeadline) this.earliestDeadline = execution.deadlineAt
    }
  }

  /** Aborts everything that runs. Drained attempts are given back without counting. */
  abortAll(why: AttemptAborted['why'], message: string): void {
    for (const execution of [...this.ledger.held.values()]) execution.abort(new AttemptAborted(why, message))
    this.wake()
  }

  // -------------------------------------------------------------------------------------------------- answers

  private acknowledge(receipt: Receipt, batch: Batch): void {
    const { host, ledger } = this
    ledger.acknowledge(batch)
    const refused = new Set(receipt.refused)
    this.counts.refused += refused.size
    this.counts.settled += batch.executions.length - refused.size
    for (const execution of batch.executions) {
      if (!refused.has(execution.taskId)) continue
      const facts = { event: 'lease.lost', taskId: execution.taskId, fence: execution.fence, workerId: host.workerId }
      host.log.warn(facts, 'a settlement was refused: the lease is gone, nothing was changed')
    }
    this.takeRevocations(receipt.revoked)
    if (receipt.drain) host.drainAsked()
  }

  /** Leases that were taken away (cancelled, past the deadline): their handlers are told, nothing is settled. */
  takeRevocations(revoked: Receipt['revoked'] | null): void {
    for (const { task_id, fence, reason } of revoked ?? []) {
      const execution = this.ledger.held.get(task_id)
      if (execution === undefined || execution.fence !== fence || execution.end !== null) continue
      execution.abort(new AttemptAborted('cancelled', `the lease was taken away: ${reason}`))
    }
  }

  private async notLive(receipt: Receipt, batch: Batch): Promise<{ moved: number }> {
    this.ledger.putBack(batch)
    if (receipt.worker === 'expired') {
      // Nobody has released us yet: a beat renews everything, then the same is sent again.
      this.host.beatNow()
      await sleep(retryDelayMs(1))
      return { moved: 0 }
    }
    this.host.workerEnded(receipt.reason ?? receipt.worker)
    return { moved: 0 }
  }

  private async leaseRanOut(): Promise<{ moved: number }> {
    const running = [...this.ledger.held.values()].filter((e) => e.end === null)
    if (running.length > 0) {
      const facts = { event: 'lease.deadline', running: running.length, workerId: this.host.workerId }
      this.host.log.error(facts, 'no beat was acknowledged in time: the leases must be taken for lost, handlers are aborted')
      for (const e of running) e.abort(new AttemptAborted('lease-lost', 'no beat was acknowledged within the lease'))
    }
    this.host.beatNow()
    await sleep(Math.min(1000, this.host.settings.beatIntervalMs))
    return { moved: 0 }
  }

  private async exchangeFailed(error: Error & { code?: string }, batch: Batch): Promise<{ moved: number }> {
    const { host, ledger } = this
    if (isAboutValues(error) && batch.executions.length > 0) return this.findTheCulprit(error, batch)
    ledger.putBack(batch)
    if (this.outage.failed()) {
      const facts = { event: 'exchange.failed', code: error.code, message: error.message, tries: this.outage.count }
      host.log.warn(facts, 'the database cannot be used; trying again')
    }
    await this.waitForWake(retryDelayMs(this.outage.count), false)
    return { moved: 0 }
  }

  /** A value that one execution left behind is refused by the database: settle one by one, so that it harms no other. */
  private async findTheCulprit(error: Error & { code?: string }, batch: Batch): Promise<{ moved: number }> {
    if (batch.executions.length === 1) {
      const execution = batch.executions[0]!
      const message = `what the handler left behind was refused: ${error.message}`
      execution.end = {
        ending: {
          task_id: execution.taskId,
          fence: execution.fence,
          outcome: 'fail',
          error: { code: error.code ?? 'refused', message },
        },
        children: null,
      }
      execution.notes = null
      this.ledger.putBack(batch)
      return { moved: 1 }
    }
    let moved = 0
    for (const execution of batch.executions) {
      const alone = this.ledger.takeBatch(execution)
      try {
        const { receipt } = await exchange(this.host.exchangeDb, {
          workerId: this.host.workerId,
          ...alone.report,
          stages: null,
          limits: null,
          runId: null,
          promote: false,
          wakeMs: null,
        })
        if (receipt.worker !== 'live') await this.notLive(receipt, alone)
        else this.acknowledge(receipt, alone)
      } catch (e) {
        await this.exchangeFailed(e as Error, alone)
      }
      moved += 1
    }
    return { moved }
  }

  // ----------------------------------------------------------------------------------------------------- rest

  private async rest(): Promise<void> {
    if (this.ledger.hasEnded) return
    const { settings } = this.host
    const now = performance.now()
    let ms: number
    if (this.draining || this.freeTotal <= 0) ms = settings.maxPollMs
    else if (this.host.hearing() && this.wakeUntil > now) ms = settings.maxPollMs
    else ms = Math.min(settings.maxPollMs, 5 * 2 ** Math.min(this.emptyLooks, 12))
    ms *= 0.75 + Math.random() / 4 // so that many runners do not look at the same moment
    ms = Math.min(ms, Math.max(1, this.dueAt - now), Math.max(1, this.earliestDeadline - now))
    if (this.ledger.hasNotes) {
      if (this.notesAt === 0) this.notesAt = now + 1000
      ms = Math.min(ms, Math.max(1, this.notesAt - now))
      if (this.notesAt <= now) this.notesAt = 0
    }
    await this.waitForWake(Math.min(ms, Math.max(1, this.host.leaseLeftMs())), true)
  }

  private waitForWake(ms: number, untilWoken: boolean): Promise<void> {
    if (untilWoken && this.woken) {
      this.woken = false
      return Promise.resolve()
    }
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer)
        this.wakeUp = null
        this.woken = false
        resolve()
      }
      const timer = setTimeout(done, ms)
      if (untilWoken) this.wakeUp = done
    })
  }

  /** The oldest fence that is or may still become ours; looked for now and then, it is needed once per beat. */
  private sayWhatIsHeld(): void {
    const now = performance.now()
    if (now - this.saidAt > this.host.settings.beatIntervalMs / 4) {
      this.saidAt = now
      let oldest = this.maxFence + 1n
      for (const { above } of this.inFlight) if (above < oldest) oldest = above + 1n
      for (const { fence } of this.ledger.held.values()) {
        const own = BigInt(fence)
        if (own < oldest) oldest = own
      }
      this.oldestFence = oldest
    }
    this.host.turned(this.ledger.held.size, this.oldestFence)
  }
}

/** Errors about the values that were sent, as against connections, locks and restarts. */
function isAboutValues(error: { code?: string }): boolean {
  return /^(22|23|54|LH|P0|0A)/.test(error.code ?? '') && error.code !== 'LH004'
}
