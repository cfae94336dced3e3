/**
 * The attempts that run: started with a claim, ended by their handlers, their timeouts, or somebody who takes the lease.
 *
 * Invariants: timeouts and aborts come on time whatever the database is doing; a place is given back when its handler
 * has come back, or when it has ignored its abort signal for the grace. Claiming and settling is the loop's.
 */
import { within } from '@leasehold/postgres'
import type { ClaimedTask, Db, Revocation } from '@leasehold/queue'
import { type Capacity, largeBatch, type Served } from './capacity.ts'
import { AttemptAborted, Execution, type Surroundings } from './execution.ts'
import type { Ledger } from './ledger.ts'
import type { RunnerLog, Settings } from './options.ts'
import type { Counts } from './settlement.ts'

/** The longest wait of a Node timer. */
const longestTimerMs = 2 ** 31 - 1
/** Notes of a running attempt wait so long for an exchange that goes anyway. */
const notesWithinMs = 1000

/** So many revocations are kept whose claims have not been answered; more would have to be under way at once. */
const maxEarly = 2 * largeBatch

/** What was claimed ahead waits so long for its place, then it goes back: the handlers are not as quick as they were. */
const patienceMs = 20

/** What attempts tell their loop. */
export interface AttemptsListener {
  /** Something has ended, a place is free, or notes have waited long enough. */
  wake(): void
  /** What was claimed ahead waited in vain and was given back. */
  waited(): void
}

/** What attempts need of their loop's host. */
export interface AttemptsHost {
  readonly settings: Settings
  readonly handlerDb: Db
  readonly workerId: string
  readonly log: RunnerLog
  readonly counts: Counts
}

/** The attempts of one worker id. */
export class Attempts {
  /** The highest fence that was claimed. */
  maxFence = 0n
  private lastFence = ''
  private earliestDeadline = Infinity
  private deadlineTimer: NodeJS.Timeout | null = null
  private notesTimer: NodeJS.Timeout | null = null
  /** Ended without their handlers, which have not come back. */
  private readonly abandoned = new Set<Execution>()
  private allBack: (() => void) | null = null
  private readonly host: AttemptsHost
  private readonly ledger: Ledger
  private readonly capacity: Capacity
  private readonly listener: AttemptsListener
  /** Claimed ahead, by stage in the order of their claims; among them some that ended while they waited. */
  private readonly waiting = new Map<Served, Execution[]>()
  private patience: NodeJS.Timeout | null = null
  private startingSoon = false
  /** Revoked before the answer to their claims was here: a beat overtook it. Task id and fence, which never come again. */
  private readonly early = new Set<string>()
  private readonly around: Surroundings

  constructor(host: AttemptsHost, ledger: Ledger, capacity: Capacity, listener: AttemptsListener) {
    this.host = host
    this.ledger = ledger
    this.capacity = capacity
    this.listener = listener
    this.around = {
      workerId: host.workerId,
      handlerDb: host.handlerDb,
      ended: (execution) => this.ended(execution),
      noted: (execution) => this.noted(execution),
      late: (execution) => this.cameBack(execution),
    }
  }

  /**
   * Starts the handler for a claimed task, or lets it wait for its place when it was claimed ahead; one that came too late
   * is given back without that. `claimedAt`: performance.now() before the claim was sent.
   */
  start(task: ClaimedTask, claimedAt: number, tooLate: boolean): void {
    const { taskId, fence } = task
    const served = this.capacity.of(task.stage)
    const earlier = this.ledger.held.get(taskId)
    if (earlier !== null) this.giveWay(earlier)
    const execution = new Execution(task, served, claimedAt, this.around)
    this.capacity.take(execution)
    this.host.counts.claimed += 1
    if (fence !== this.lastFence) {
      this.lastFence = fence
      const exact = BigInt(fence)
      if (exact > this.maxFence) this.maxFence = exact
    }
    this.ledger.hold(execution)
    if (this.early.size > 0 && this.early.delete(`${taskId} ${fence}`)) return cancel(execution, 'cancelled')
    if (tooLate) return execution.decline()
    if (execution.deadlineAt < this.earliestDeadline) this.awaitDeadline(execution.deadlineAt)
    // A place that has just become free is for those who wait.
    if (!this.startingSoon && this.capacity.begin(served)) execution.run()
    else this.wait(execution)
  }

  private wait(execution: Execution): void {
    const queue = this.waiting.get(execution.served)
    if (queue === undefined) this.waiting.set(execution.served, [execution])
    else queue.push(execution)
    this.patience ??= setTimeout(() => this.giveBackWaiting(), patienceMs)
  }

  private startWaiting(): void {
    this.startingSoon = false
    for (const [served, queue] of this.waiting) {
      let next = 0
      while (next < queue.length) {
        const execution = queue[next]!
        if (execution.end === null && !this.capacity.begin(served)) break
        next += 1
        if (execution.end === null) execution.run()
      }
      queue.splice(0, next)
      if (queue.length === 0) this.waiting.delete(served)
    }
    if (this.waiting.size > 0) return
    clearTimeout(this.patience ?? undefined)
    this.patience = null
  }

  private giveBackWaiting(): void {
    this.patience = null
    const late = [...this.waiting.values()].flat()
    this.waiting.clear()
    for (const execution of late) if (execution.end === null) execution.decline()
    this.listener.waited()
  }

  /**
   * The database has leased its task anew, so its own lease is gone: cancelled and retried before this worker had heard
   * of it. Out of the ledger it would be neither timed nor told any more, so it is told now.
   */
  private giveWay(earlier: Execution): void {
    if (earlier.end === null)
      earlier.abort(new AttemptAborted('cancelled', 'the lease was taken away: the task was claimed anew'))
    else this.ledger.drop(earlier) // what it still has to say will be refused
  }

  private ended(execution: Execution): void {
    this.ledger.end(execution)
    if (!execution.abandoned) {
      // One that was cancelled while it waited for its place has not settled anything itself.
      if (execution.end === 'own' && execution.started) this.host.counts.settled += 1
      return this.freePlace(execution)
    }
    // Its place stays taken until the handler comes back, or until it is clear that it will not.
    this.abandoned.add(execution)
    this.host.counts.stuck += 1
    setTimeout(() => this.giveUpOn(execution), this.host.settings.abortGraceMs).unref()
    this.listener.wake()
  }

  private freePlace(execution: Execution): void {
    if (execution.freed) return
    execution.freed = true
    this.capacity.leave(execution)
    if (execution.started) this.capacity.finish(execution.served)
    if (this.waiting.size > 0 && !this.startingSoon) {
      this.startingSoon = true // many end in one turn: those that wait for their places start together
      queueMicrotask(() => this.startWaiting())
    }
    this.listener.wake()
  }

  private giveUpOn(execution: Execution): void {
    if (execution.freed) return
    const facts = { event: 'handler.stuck', ...factsOf(execution), stuck: this.host.counts.stuck }
    this.host.log.warn(facts, 'a handler ignores its abort signal; its place is given to others')
    this.freePlace(execution)
  }

  private cameBack(execution: Execution): void {
    if (!this.abandoned.delete(execution)) return // a promise of the handler's own making may settle twice
    if (this.abandoned.size === 0) this.allBack?.()
    this.host.counts.stuck -= 1
    if (execution.freed) {
      const facts = { event: 'handler.late', ...factsOf(execution) }
      this.host.log.warn(
        facts,
        'a handler came back long after its attempt had ended; its outcome was ignored',
      )
    }
    this.freePlace(execution)
  }

  /** Resolves when every handler whose attempt was ended has come back, at the latest after `limitMs`. */
  async quiet(limitMs: number): Promise<void> {
    if (this.abandoned.size === 0) return
    await within(limitMs, new Promise<void>((resolve) => (this.allBack = resolve)))
  }

  private noted(execution: Execution): void {
    this.ledger.note(execution)
    this.notesTimer ??= setTimeout(() => {
      this.notesTimer = null
      this.listener.wake()
    }, notesWithinMs)
  }

  private awaitDeadline(deadlineAt: number): void {
    this.earliestDeadline = deadlineAt
    clearTimeout(this.deadlineTimer ?? undefined)
    const ms = Math.min(Math.max(0, deadlineAt - performance.now()), longestTimerMs)
    this.deadlineTimer = setTimeout(() => this.endOverdue(), ms).unref()
  }

  private endOverdue(): void {
    const now = performance.now()
    let next = Infinity
    for (const execution of this.ledger.held.all()) {
      if (execution.end !== null) continue
      if (execution.deadlineAt <= now) {
        execution.abort(new AttemptAborted('timeout', 'the attempt took longer than its timeout'))
      } else if (execution.deadlineAt < next) next = execution.deadlineAt
    }
    this.earliestDeadline = Infinity
    if (next < Infinity) this.awaitDeadline(next)
  }

  /** Aborts everything that runs; the attempts are given back without counting. Returns how many there were. */
  abortAll(why: AttemptAborted['why'], message: string): number {
    const running = this.ledger.held.all().filter((execution) => execution.end === null)
    for (const execution of running) execution.abort(new AttemptAborted(why, message))
    this.listener.wake()
    return running.length
  }

  /** Leases that were taken away (cancelled, past the deadline): their handlers are told, nothing is settled. */
  takeRevocations(revoked: readonly Revocation[] | null): void {
    for (const { task_id, fence, reason } of revoked ?? []) {
      const execution = this.ledger.held.get(task_id)
      if (execution === null || execution.fence !== fence) this.expect(`${task_id} ${fence}`)
      else if (execution.end !== null)
        this.ledger.drop(execution) // nothing is left to settle
      else cancel(execution, reason)
    }
  }

  /** The claim may still be under way. What is not comes never, and is pushed out by others in the end. */
  private expect(lease: string): void {
    if (this.early.size >= maxEarly) this.early.delete(this.early.values().next().value!)
    this.early.add(lease)
  }

  /** Nothing more is timed; handlers that still run are left to themselves. */
  close(): void {
    clearTimeout(this.deadlineTimer ?? undefined)
    clearTimeout(this.notesTimer ?? undefined)
    clearTimeout(this.patience ?? undefined)
  }
}

function cancel(execution: Execution, reason: string): void {
  execution.abort(new AttemptAborted('cancelled', `the lease was taken away: ${reason}`))
}

function factsOf({ taskId, fence, stage }: Execution): object {
  return { taskId, fence, stage: stage.name }
}
