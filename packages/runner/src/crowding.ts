/**
 * How much of the database one worker takes, and one process: where many want it, exchanges beside each other only make
 * each other longer. Each walks past the rows that all the others hold, and fewer but larger ones move the same tasks.
 */

/** An exchange costs about as much as so many tasks, whatever it moves. */
const fixedCost = 40
/** Exchanges that move less say little. */
const leastMoved = 32
/** One worker alone on a database varies by less than this; eight of them on two cores exceed it. */
const crowdedFrom = 4
/** What the quickest took is forgotten slowly: payloads, networks and machines change. It doubles in 350 exchanges. */
const forgetting = 1.002
const smoothing = 0.2

/**
 * Whether the database is crowded: exchanges take several times as long, for what they move, as the quickest did. Whoever
 * has known nothing else takes a crowd for normal.
 */
export class Crowding {
  private least = Infinity
  private usual = 0

  /** An exchange took so long and moved so many tasks: claimed and ended. */
  took(ms: number, moved: number): void {
    if (moved < leastMoved) return
    const one = ms / (moved + fixedCost)
    this.usual = this.least === Infinity ? one : this.usual + smoothing * (one - this.usual)
    this.least = Math.min(this.least * forgetting, one)
  }

  get crowded(): boolean {
    return this.usual > crowdedFrom * this.least
  }
}

/** So many large exchanges of one process at once: its one thread can hardly feed more. */
const passes = 2
/** An exchange that takes longer than this hangs, and is no reason for others to wait. */
const hangsAfterMs = 1000

/** Lets large exchanges of one process on one database through, a few at a time, in the order in which they came. */
export class Turnstile {
  private inside = 0
  private readonly queue: (() => void)[] = []

  /**
   * Resolves when it is one's turn, at the latest after so long, with what gives the pass back; to be called in any case.
   * While it waits, `hurry` holds what ends the wait at once.
   */
  enter(mostMs: number, hurry: Set<() => void>): Promise<() => void> {
    if (this.inside < passes) return Promise.resolve(this.pass())
    return new Promise((resolve) => {
      const go = () => {
        clearTimeout(timer)
        this.queue.splice(this.queue.indexOf(go), 1)
        hurry.delete(go)
        resolve(this.pass())
      }
      const timer = setTimeout(go, mostMs)
      this.queue.push(go)
      hurry.add(go)
    })
  }

  private pass(): () => void {
    this.inside += 1
    let valid = true
    const leave = () => {
      if (!valid) return
      valid = false
      clearTimeout(timer)
      this.inside -= 1
      if (this.inside < passes) this.queue[0]?.()
    }
    const timer = setTimeout(leave, hangsAfterMs).unref()
    return leave
  }
}

const turnstiles = new Map<string, Turnstile>()

/** The one that all workers of this process share on a database. */
export function turnstileOf(connectionString: string): Turnstile {
  let turnstile = turnstiles.get(connectionString)
  if (turnstile === undefined) turnstiles.set(connectionString, (turnstile = new Turnstile()))
  return turnstile
}
