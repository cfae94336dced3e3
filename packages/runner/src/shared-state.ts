/**
 * What the main thread and the heartbeat thread know of each other, in shared memory: no messages, no waiting.
 *
 * The main thread writes that its loop turns and what it holds; the heartbeat thread writes when the last acknowledged
 * beat was sent. All times are monotonic nanoseconds of one clock (hrtime), which both threads share.
 */
const slots = { loopAt: 0, oldestFence: 1, running: 2, draining: 3, ackedAt: 4 } as const

/** The memory; hand it to the thread in a message. */
export type SharedMemory = SharedArrayBuffer

/** Makes the memory. The first beat is the registration itself, sent at `registeredAtNs`. */
export function makeSharedState(registeredAtNs: bigint): SharedState {
  const state = new SharedState(new SharedArrayBuffer(8 * Object.keys(slots).length))
  state.acknowledge(registeredAtNs)
  state.turn()
  return state
}

/** One side's view of the memory. */
export class SharedState {
  readonly memory: SharedMemory
  private readonly cells: BigInt64Array

  constructor(memory: SharedMemory) {
    this.memory = memory
    this.cells = new BigInt64Array(memory)
  }

  /** Main: the loop has turned. */
  turn(): void {
    Atomics.store(this.cells, slots.loopAt, process.hrtime.bigint())
  }

  /** Main: what is held. The oldest fence lets views and the monitor skip what this worker held before. */
  hold(running: number, oldestFence: bigint): void {
    Atomics.store(this.cells, slots.running, BigInt(running))
    Atomics.store(this.cells, slots.oldestFence, oldestFence)
  }

  /** Main: nothing more is claimed. */
  drain(): void {
    Atomics.store(this.cells, slots.draining, 1n)
  }

  /** Thread: a beat sent at this time was acknowledged. */
  acknowledge(sentAtNs: bigint): void {
    Atomics.store(this.cells, slots.ackedAt, sentAtNs)
  }

  get loopAgeMs(): number {
    return Number((process.hrtime.bigint() - Atomics.load(this.cells, slots.loopAt)) / 1_000_000n)
  }

  get oldestFence(): bigint {
    return Atomics.load(this.cells, slots.oldestFence)
  }

  get running(): number {
    return Number(Atomics.load(this.cells, slots.running))
  }

  get draining(): boolean {
    return Atomics.load(this.cells, slots.draining) === 1n
  }

  /** How long ago the last acknowledged beat was sent. */
  get ackAgeMs(): number {
    return Number((process.hrtime.bigint() - Atomics.load(this.cells, slots.ackedAt)) / 1_000_000n)
  }
}
