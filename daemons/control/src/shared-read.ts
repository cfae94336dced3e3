/**
 * One read for all who ask at about the same time: ten watchers cost the database as much as one.
 *
 * Invariant: at no moment are two reads under way, and none begins within `freshMs` after the last one has ended, well or
 * not. Nobody waits longer than `patienceMs`. Never rejects: a failure is an answer.
 */
import { within } from '@leasehold/postgres'

/** What a read gave, or why there is nothing. */
export type Answer<T> =
  | { readonly ok: true; readonly value: T; readonly tookMs: number }
  | { readonly ok: false; readonly error: unknown }

export interface SharedReadOptions<T> {
  /** For how long an answer serves others, failures too. */
  readonly freshMs: number
  /** How long one who asks waits. A read that takes longer goes on, and its answer is the next one's. */
  readonly patienceMs: number
  /** Called once for each read that has ended. Must not throw. */
  readonly onEnd?: (answer: Answer<T>) => void
}

export class SharedRead<T> {
  private readonly read: () => Promise<T>
  private readonly options: SharedReadOptions<T>
  private last: { readonly answer: Answer<T>; readonly at: number } | null = null
  private underWay: Promise<Answer<T>> | null = null

  constructor(read: () => Promise<T>, options: SharedReadOptions<T>) {
    // What throws at once must not be over before it is under way.
    this.read = async () => read()
    this.options = options
  }

  /** An answer that is fresh, or the one of the read that is under way, or of a new one. */
  async get(): Promise<Answer<T>> {
    const { freshMs, patienceMs } = this.options
    if (this.last !== null && performance.now() - this.last.at < freshMs) return this.last.answer
    this.underWay ??= this.begin()
    let answer: Answer<T> | null = null
    await within(
      patienceMs,
      this.underWay.then((one) => (answer = one)),
    )
    return answer ?? { ok: false, error: new Error(`the database has not answered within ${patienceMs} ms`) }
  }

  private async begin(): Promise<Answer<T>> {
    const startedAt = performance.now()
    let answer: Answer<T>
    try {
      answer = { ok: true, value: await this.read(), tookMs: performance.now() - startedAt }
    } catch (error) {
      answer = { ok: false, error }
    }
    this.last = { answer, at: performance.now() }
    this.underWay = null
    this.options.onEnd?.(answer)
    return answer
  }
}
