/**
 * The main thread's side of the heartbeat: starts the thread, hears its answers, keeps the self-deadline.
 *
 * The self-deadline is monotonic and counted from before the last acknowledged beat was sent; past it this process
 * must assume that its leases are gone, whatever the database might have said since.
 */
import { Worker } from 'node:worker_threads'
import type { BeatAnswer } from '@leasehold/queue'
import type { BeatMessage, BeatThreadData } from './beat-thread.ts'
import { makeSharedState, type SharedState } from './shared-state.ts'

/** Called as the thread reports. */
export interface HeartListener {
  answered(answer: BeatAnswer): void
  failed(message: string): void
  recovered(failures: number): void
  wedged(loopAgeMs: number): void
  /** The thread itself ended although nobody stopped it: nothing renews the leases any more. */
  stopped(error: Error): void
}

/** The beating of one worker id. */
export class Heart {
  readonly state: SharedState
  private readonly thread: Worker
  private readonly marginMs: number
  private readonly leaseTtlMs: number
  private stopping = false

  constructor(data: Omit<BeatThreadData, 'memory'>, registeredAtNs: bigint, listener: HeartListener) {
    this.state = makeSharedState(registeredAtNs)
    this.leaseTtlMs = data.leaseTtlMs
    this.marginMs = data.leaseTtlMs / 5
    const source = import.meta.url.endsWith('.ts')
    this.thread = new Worker(new URL(`./beat-thread.${source ? 'ts' : 'js'}`, import.meta.url), {
      workerData: { ...data, memory: this.state.memory } satisfies BeatThreadData,
      execArgv: source ? ['--conditions=development', '--no-warnings'] : [],
      name: 'leasehold-heartbeat',
    })
    this.thread.on('message', (message: BeatMessage) => {
      if (message.type === 'answer') listener.answered(message.answer)
      else if (message.type === 'failed') listener.failed(message.message)
      else if (message.type === 'recovered') listener.recovered(message.failures)
      else listener.wedged(message.loopAgeMs)
    })
    this.thread.on('error', (error) => listener.stopped(error as Error))
    this.thread.on('exit', () => {
      if (!this.stopping) listener.stopped(new Error('the heartbeat thread ended'))
    })
  }

  /** Milliseconds until the leases must be taken for lost; negative when they must be now. */
  get leftMs(): number {
    return this.leaseTtlMs - this.marginMs - this.state.ackAgeMs
  }

  /** Beats right away instead of at the next interval. */
  beatNow(): void {
    this.thread.postMessage('now')
  }

  /** Stops beating. The last thing a runner does. */
  async stop(): Promise<void> {
    this.stopping = true
    await this.thread.terminate()
  }
}
