/**
 * What a worker holds and what it still has to tell the database: executions, endings, notes.
 *
 * Invariant: an execution stays held until its ending is acknowledged, so that no lease is ever forgotten. What was
 * sent and not acknowledged (a lost reply) is sent again; the fence makes that harmless. Sending is settlement.ts.
 */
import type { ExchangeRequest } from '@leasehold/queue'
import type { Execution } from './execution.ts'
import { Held } from './held.ts'
import type { Line } from './notes.ts'

/** What one exchange says about ended and running work. */
export type Report = Pick<ExchangeRequest, 'doneIds' | 'doneFences' | 'endings' | 'children' | 'notes'>

/** Lines of one execution, on their way. */
export interface Noted {
  readonly execution: Execution
  readonly lines: readonly Line[]
  /** They need not be sent again. */
  arrived: boolean
}

/** Ended executions and notes on their way to the database. */
export interface Batch {
  readonly ended: readonly Execution[]
  readonly notes: readonly Noted[]
}

const maxEnded = 2000
/** Of JSON in one exchange; a batch stops growing beyond it, so it is exceeded by one execution at most. */
const maxCharacters = 4_000_000

/** The held executions of one worker id. */
export class Ledger {
  readonly held: Held<Execution> = new Held()
  private ended: Execution[] = []
  /** Ended while lines of theirs were under way, which would be dropped if their settlement overtook them. */
  private overtaking: Execution[] = []
  private readonly noted = new Set<Execution>()
  private emptied: (() => void) | null = null

  hold(execution: Execution): void {
    this.held.add(execution)
  }

  /** The execution has ended; what settled itself is over. */
  end(execution: Execution): void {
    if (execution.end === 'own') this.drop(execution)
    else this.ended.push(execution)
  }

  note(execution: Execution): void {
    this.noted.add(execution)
  }

  /** Its ending was acknowledged, or its lease is known to be gone. */
  drop(execution: Execution): void {
    this.held.remove(execution)
    if (execution.notebook !== null) this.noted.delete(execution)
    if (this.held.size === 0 && this.emptied !== null) this.emptied()
  }

  get hasEnded(): boolean {
    return this.ended.length > 0
  }

  /** Resolves when nothing is held. */
  whenEmpty(): Promise<void> {
    if (this.held.size === 0) return Promise.resolve()
    return new Promise((resolve) => (this.emptied = resolve))
  }

  /** Takes what is to be told now: ended executions with their notes, then notes of those that run. */
  takeBatch(): Batch {
    const notes: Noted[] = []
    let characters = 0
    let count = 0
    while (count < this.ended.length && count < maxEnded && characters < maxCharacters) {
      const execution = this.ended[count++]!
      if (execution.notebook?.underWay) {
        this.overtaking.push(execution)
        continue
      }
      if (typeof execution.end === 'object') characters += weightOf(execution)
      if (execution.notebook !== null) characters += this.takeNotes(execution, notes)
    }
    const taken = count === 0 ? [] : this.ended.splice(0, count)
    const overtaking = new Set(this.overtaking)
    const ended = overtaking.size === 0 ? taken : taken.filter((execution) => !overtaking.has(execution))
    for (const execution of this.noted) {
      if (characters >= maxCharacters) break
      if (execution.notebook!.held) continue
      characters += this.takeNotes(execution, notes)
    }
    return { ended, notes }
  }

  private takeNotes(execution: Execution, into: Noted[]): number {
    this.noted.delete(execution)
    const lines = execution.notebook!.take()
    if (lines.length > 0) {
      into.push({ execution, lines, arrived: false })
      execution.notebook!.depart()
    }
    return lines.reduce((sum, line) => sum + line.rest.length, 0)
  }

  /** It did not arrive, or nobody knows whether it did: what is still held waits for the next exchange. */
  putBack(batch: Batch): void {
    const waiting = new Set(this.ended)
    const open = batch.ended.filter((e) => this.held.get(e.taskId) === e && !waiting.has(e))
    for (const execution of open) execution.resent = true
    this.ended = [...open, ...this.ended]
    for (const noted of batch.notes) {
      if (noted.arrived) continue
      if (this.held.get(noted.execution.taskId) === noted.execution) {
        noted.execution.notebook!.putBack(noted.lines)
        this.noted.add(noted.execution)
      }
      this.arrive(noted)
    }
  }

  /** Lines are under way no more: stored, refused, or put back. */
  arrive(noted: Noted): void {
    noted.arrived = true
    noted.execution.notebook!.arrive()
    if (this.overtaking.length === 0) return
    this.ended.push(...this.overtaking)
    this.overtaking = []
  }

  /** Puts one back whose ending was changed. */
  endAgain(execution: Execution): void {
    this.ended.push(execution)
  }
}

function weightOf(execution: Execution): number {
  const own = typeof execution.end === 'object' ? (execution.end?.rest.length ?? 0) : 0
  return (execution.children ?? []).reduce((sum, child) => sum + child.length, own)
}

/** What an exchange is to say about these. */
export function reportOf(ended: readonly Execution[], notes: readonly Noted[]): Report {
  const doneIds: string[] = []
  const doneFences: string[] = []
  const endings: string[] = []
  const children: string[] = []
  for (const execution of ended) {
    const end = execution.end
    if (end === 'plain') {
      doneIds.push(execution.taskId)
      doneFences.push(execution.fence)
    } else if (end !== null && end !== 'own') {
      endings.push(`{${execution.lease},${end.rest}`)
      if (end.outcome === 'done' && execution.children !== null) children.push(...execution.children)
    }
  }
  return {
    doneIds,
    doneFences,
    endings: list(endings),
    children: list(children),
    notes: list(notes.map(({ execution, lines }) => execution.linesJson(lines))),
  }
}

function list(members: string[]): string | null {
  return members.length === 0 ? null : `[${members.join(',')}]`
}
