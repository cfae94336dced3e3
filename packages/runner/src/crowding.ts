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

/** Whether the database is crowded: exchanges take several times as long, for what they move, as the quickest did. */
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

/** Lets large exchanges of one process on one database through, a few at a time, in the order in which they came. */
export class Turnstile {
  private inside = 0
  private readonly queue: (() => void)[] = []

  /** Waits for its turn, at most so long: those inside may hang. Call {@link leave} afterwards in any case. */
  async enter(mostMs: number): Promise<void> {
    if (this.inside < passes) this.inside += 1
    else await this.wait(mostMs)
  }

  leave(): void {
    this.inside -= 1
    if (this.inside < passes) this.queue.shift()?.()
  }

  private wait(mostMs: number): Promise<void> {
    return new Promise((resolve) => {
      const go = () => {
        this.inside += 1
        clearTimeout(timer)
        resolve()
      }
      const timer = setTimeout(() => {
        this.queue.splice(this.queue.indexOf(go), 1)
        go()
      }, mostMs)
      this.queue.push(go)
    })
  }
}

const turnstiles = new Map<string, Turnstile>()

/** The one that all workers of this process share on a database. */
export function turnstileOf(connectionString: string): Turnstile {
  let turnstile = turnstiles.get(connectionString)
  if (turnstile === undefined) turnstiles.set(connectionString, (turnstile = new Turnstile()))
  return turnstile
}
