/**
 * What a worker holds and what it still has to tell the database: executions, endings, notes.
 *
 * Invariant: an execution stays held until its ending is acknowledged, so that no lease is ever forgotten. What was
 * sent and not acknowledged (a lost reply) is sent again; the fence makes that harmless.
 */
import { cleanJson, type ExchangeRequest } from '@leasehold/queue'
import type { Execution } from './execution.ts'

/** What one exchange says about ended work. */
export type Report = Pick<ExchangeRequest, 'doneIds' | 'doneFences' | 'endings' | 'children' | 'notes'>

/** A batch of ended executions on its way to the database. */
export interface Batch {
  readonly executions: readonly Execution[]
  readonly report: Report
}

const emptyReport: Report = { doneIds: [], doneFences: [], endings: null, children: null, notes: null }

/** The most executions that are settled by one exchange. */
const maxBatch = 2000

/** The held executions of one worker id. */
export class Ledger {
  /** By task id; in the order of their claim, so the first one has the oldest fence. */
  readonly held: Map<string, Execution> = new Map()
  private ended: Execution[] = []
  private noted = new Set<Execution>()

  hold(execution: Execution): void {
    this.held.set(execution.taskId, execution)
  }

  /** The execution has ended; own transactions have settled it already. */
  end(execution: Execution): void {
    if (execution.end === 'own') this.drop(execution)
    else this.ended.push(execution)
  }

  note(execution: Execution): void {
    this.noted.add(execution)
  }

  drop(execution: Execution): void {
    if (this.held.get(execution.taskId) === execution) this.held.delete(execution.taskId)
    this.noted.delete(execution)
  }

  get hasEnded(): boolean {
    return this.ended.length > 0
  }

  get hasNotes(): boolean {
    return this.noted.size > 0
  }

  /** Takes what is to be told now. With `only`, a batch of that one execution: for finding the one that is refused. */
  takeBatch(only?: Execution): Batch {
    const executions = only ? [only] : this.ended.splice(0, maxBatch)
    const notes = this.takeNotes(only)
    if (executions.length === 0 && notes === null) return { executions, report: emptyReport }
    const report: Report = { doneIds: [], doneFences: [], endings: null, children: null, notes }
    const endings: unknown[] = []
    const children: unknown[] = []
    for (const execution of executions) {
      const end = execution.end
      if (end === 'plain') {
        report.doneIds.push(execution.taskId)
        report.doneFences.push(execution.fence)
      } else if (end !== null && end !== 'own') {
        endings.push(end.ending)
        for (const child of end.children ?? []) children.push(child)
      }
    }
    if (endings.length > 0) report.endings = cleanJson(endings, Infinity)
    if (children.length > 0) report.children = JSON.stringify(children)
    return { executions, report }
  }

  private takeNotes(only?: Execution): string | null {
    if (this.noted.size === 0) return null
    const now = performance.now()
    const notes: unknown[] = []
    for (const execution of only ? [only] : this.noted) {
      for (const note of execution.notes ?? []) {
        notes.push(note.kind === 'log' ? { ...note, at_ms_ago: Math.round(now - note.at_ms_ago) } : note)
      }
      if (execution.latestProgress !== null) notes.push(execution.latestProgress)
      execution.notes = null
      execution.latestProgress = null
      this.noted.delete(execution)
    }
    return notes.length === 0 ? null : cleanJson(notes, Infinity)
  }

  /** The exchange was answered: these are settled, or refused because their lease is gone. Either way they are over. */
  acknowledge(batch: Batch): void {
    for (const execution of batch.executions) this.drop(execution)
  }

  /** The exchange failed: they wait for the next one. Notes are not repeated. */
  putBack(batch: Batch): void {
    this.ended = [...batch.executions, ...this.ended]
  }
}
