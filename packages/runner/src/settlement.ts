/**
 * One exchange with the database, and what to do when it does not go well: a value that is refused, an answer that is
 * lost, a worker that is no longer live.
 *
 * Invariants: what one handler left behind never keeps another's ending from being settled; whatever an exchange whose
 * answer was lost may have claimed is given back, because nobody runs it while beats keep it leased.
 * When to exchange, and what is claimed, is the loop's decision.
 */
import {
  type ClaimedTask,
  type Db,
  exchange,
  type Receipt,
  returnStrays,
  type Revocation,
} from '@leasehold/queue'
import type { Wish } from './capacity.ts'
import type { Execution } from './execution.ts'
import { type Batch, type Ledger, type Noted, reportOf } from './ledger.ts'
import type { RunnerLog } from './options.ts'
import type { Look } from './pace.ts'

/** Numbers since the start. */
export interface Counts {
  claimed: number
  /** Endings that were accepted, also in handlers' own transactions. */
  settled: number
  /** Endings that were refused because the lease was gone. */
  refused: number
  /** Endings sent twice whose first answer was lost: settled then, or refused; nothing changed the second time. */
  unconfirmed: number
  /** Handlers that ignore their abort signal now. */
  stuck: number
  exchanges: number
}

/** The answer to an exchange of a live worker. */
export interface Answer {
  readonly claimed: readonly ClaimedTask[]
  /** How long they were, as JSON. */
  readonly characters: number
  readonly dueInMs: number | undefined
  /** Stages whose ready tasks wait for their rate limit; the first of them may go on in `dueInMs`. */
  readonly held: readonly string[]
  readonly revoked: readonly Revocation[]
  readonly drainAsked: boolean
}

/** The database does not take this worker for live. */
export class WorkerNotLive extends Error {
  readonly state: Receipt['worker']
  readonly reason: string

  constructor(receipt: Receipt) {
    super(`the worker is ${receipt.worker}`)
    this.state = receipt.worker
    this.reason = receipt.reason ?? receipt.worker
  }
}

const strayLookAgainMs = 30_000
const strayLogged = 20

/** The exchanges of one worker id. */
export class Settlement {
  private readonly db: Db
  private readonly workerId: string
  private readonly runId: string | null
  private readonly ledger: Ledger
  private readonly counts: Counts
  private readonly log: RunnerLog
  /** When to look for strays, by performance.now(), soonest first. */
  private strayLooks: number[] = []

  constructor(of: {
    db: Db
    workerId: string
    runId: string | null
    ledger: Ledger
    counts: Counts
    log: RunnerLog
  }) {
    this.db = of.db
    this.workerId = of.workerId
    this.runId = of.runId
    this.ledger = of.ledger
    this.counts = of.counts
    this.log = of.log
  }

  /** Sends a batch and claims what is wished for. Throws {@link WorkerNotLive}, or the database's error. */
  async exchange(batch: Batch, wish: Wish | null, look: Look | null): Promise<Answer> {
    return this.send(batch.ended, batch.notes, wish, look)
  }

  private async send(
    ended: readonly Execution[],
    notes: readonly Noted[],
    wish: Wish | null,
    look: Look | null,
  ): Promise<Answer> {
    this.counts.exchanges += 1
    const { receipt, claimed, characters } = await exchange(this.db, {
      workerId: this.workerId,
      ...reportOf(ended, notes),
      stages: wish === null ? null : wish.stages,
      limits: wish === null ? null : wish.limits,
      runId: this.runId,
      promote: look?.promote ?? false,
      wakeMs: look?.wakeMs ?? null,
    })
    if (receipt.worker !== 'live') throw new WorkerNotLive(receipt)
    this.acknowledge(ended, receipt.refused)
    for (const noted of notes) this.ledger.arrive(noted)
    return {
      claimed,
      characters,
      dueInMs: receipt.due_in_ms,
      held: receipt.held ?? [],
      revoked: receipt.revoked ?? [],
      drainAsked: receipt.drain === true,
    }
  }

  /**
   * Settled or refused, they are over. But a lease that is past its deadline takes nothing but a failure: what was
   * refused is sent once more as a timeout, and only what is refused then has lost its lease.
   */
  private acknowledge(ended: readonly Execution[], refusedIds: readonly string[] | undefined): void {
    if (refusedIds === undefined) {
      for (const execution of ended) this.ledger.drop(execution)
      this.counts.settled += ended.length
      return
    }
    const refused = new Set(refusedIds)
    const lost: Execution[] = []
    for (const execution of ended) {
      if (!refused.has(execution.taskId)) this.counts.settled += 1
      else if (!execution.replaced) {
        execution.failAsLate()
        this.ledger.endAgain(execution)
        continue
      } else if (execution.resent) this.counts.unconfirmed += 1
      else lost.push(execution)
      this.ledger.drop(execution)
    }
    if (lost.length === 0) return
    this.counts.refused += lost.length
    const facts = { event: 'lease.lost', workerId: this.workerId, ...some(lost) }
    this.log.warn(facts, 'settlements were refused: these leases are gone, nothing was changed')
  }

  /**
   * After a value was refused: sends the batch again without claiming, in ever smaller parts, until what was refused
   * stands alone. Its notes are dropped, its ending becomes a failed attempt. Throws like {@link exchange}.
   *
   * An internal error may stand in the place of an answer: then the exchange was carried out, and it may have claimed.
   */
  async apart(batch: Batch, error: Error): Promise<void> {
    if (isAnswerLost(error)) {
      this.suspectStrays()
      for (const execution of batch.ended) execution.resent = true
    }
    // Notes first: they are taken only while the lease holds.
    await sendApart(
      batch.notes,
      async (notes) => void (await this.send([], notes, null, null)),
      (noted, error) => {
        this.ledger.arrive(noted)
        const { execution } = noted
        const facts = {
          event: 'notes.refused',
          taskId: execution.taskId,
          code: error.code,
          message: error.message,
        }
        this.log.warn(facts, 'log lines of a task were refused by the database and dropped')
      },
    )
    await sendApart(
      batch.ended,
      async (ended) => void (await this.send(ended, [], null, null)),
      (execution, error) => this.refuse(execution, error),
    )
  }

  private refuse(execution: Execution, error: DatabaseError): void {
    if (!execution.replaced) {
      execution.replaceEnd(error)
      this.ledger.endAgain(execution)
      return
    }
    // It stays held, so that the deadline which ends its lease is still looked for.
    const facts = {
      event: 'settlement.refused',
      taskId: execution.taskId,
      code: error.code,
      message: error.message,
    }
    this.log.error(facts, 'a task cannot be settled at all; its lease ends at its deadline')
  }

  // ---------------------------------------------------------------------------------------------------- strays

  /** The answer to an exchange was lost: it may have claimed. */
  suspectStrays(): void {
    const now = performance.now()
    // Looked for twice: a server that was frozen may carry the lost exchange out after the first look.
    this.strayLooks = [now, now + strayLookAgainMs]
  }

  /** Whether leases may exist that the ledger does not know. */
  get mayHaveStrays(): boolean {
    return this.strayLooks.length > 0
  }

  /** Whether to look for strays now; no exchange may be under way then. */
  get strayLookDue(): boolean {
    return this.strayLooks.length > 0 && this.strayLooks[0]! <= performance.now()
  }

  /** Gives back what is leased to this worker and not held. */
  async lookForStrays(): Promise<void> {
    const returned = await returnStrays(this.db, this.workerId, this.ledger.held.all())
    if (returned === null) return // not live: the next exchange says so
    this.strayLooks.shift()
    if (returned.length === 0) return
    const facts = {
      event: 'strays.returned',
      count: returned.length,
      taskIds: returned.slice(0, strayLogged),
    }
    this.log.warn(facts, 'an answer was lost with tasks in it; they were given back')
  }
}

/** Sends items together and, when the database refuses a value among them, in halves. Other errors pass through. */
async function sendApart<T>(
  items: readonly T[],
  send: (items: readonly T[]) => Promise<void>,
  refuse: (item: T, error: DatabaseError) => void,
): Promise<void> {
  if (items.length === 0) return
  try {
    await send(items)
  } catch (error) {
    if (!isAboutValues(error)) throw error
    if (items.length === 1) return refuse(items[0]!, error as DatabaseError)
    const middle = items.length >> 1
    await sendApart(items.slice(0, middle), send, refuse)
    await sendApart(items.slice(middle), send, refuse)
  }
}

type DatabaseError = Error & { code?: string }

/**
 * Errors about the values that were sent, as against connections, locks, lack of resources and restarts. Internal errors
 * (XX) count too: whatever raises them, the others must not wait for it.
 */
export function isAboutValues(error: unknown): boolean {
  const code = (error as DatabaseError).code ?? ''
  return /^(0A|21|22|23|54|LH|P0|XX)...$/.test(code) && code !== 'LH004'
}

/** Whether the statement may have been carried out although it failed here: no answer came, or the server's last words. */
export function isAnswerLost(error: unknown): boolean {
  const code = (error as DatabaseError).code ?? ''
  return !/^[0-9A-Z]{5}$/.test(code) || /^(08|57P|XX)/.test(code)
}

function some(executions: readonly Execution[]): object {
  return { count: executions.length, taskIds: executions.slice(0, strayLogged).map((e) => e.taskId) }
}
