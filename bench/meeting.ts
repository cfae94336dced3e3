/**
 * A point that cells measured at the same time reach before any of them goes on: some take longer to be prepared.
 */

/** For so many parties. */
export class Meeting {
  private missing: number
  private readonly all = Promise.withResolvers<void>()

  constructor(parties: number) {
    this.missing = parties
  }

  /** One of them. */
  join(): Party {
    let counted = false
    const count = (): void => {
      if (counted) return
      counted = true
      this.missing -= 1
      if (this.missing === 0) this.all.resolve()
    }
    return {
      arrive: () => {
        count()
        return this.all.promise
      },
      leave: count,
    }
  }
}

/** Somebody who is expected. */
export interface Party {
  /** Resolves when everybody has come or left. */
  arrive(): Promise<void>
  /** Is not waited for, should it not have come. */
  leave(): void
}
