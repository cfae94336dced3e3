/**
 * The heartbeat thread of this process: started for the first worker, ended after the last one.
 *
 * A thread for each worker would cost many slots of one process more than their work does: 16 MiB each, and its start.
 * What a thread protects from, a main thread that is busy, concerns all of them alike.
 */
import { once } from 'node:events'
import { MessageChannel, Worker } from 'node:worker_threads'
import { within } from '@leasehold/postgres'
import type { BeatData, BeatMessage, NewHeart } from './beat-thread.ts'

/** Called as the thread reports. */
export interface BeatListener {
  heard(message: BeatMessage): void
  /** The thread has ended although nobody stopped it. */
  died(error: Error): void
}

/** The beats of one worker. */
export interface Beating {
  /** Beats right away instead of at the next interval. */
  now(): void
  /** No beat begins any more; resolves when its connection is closed, or when that takes long. */
  stop(): Promise<void>
}

/** A beat that hangs is not waited for much longer. */
const closeWithinMs = 1000

class BeatThread {
  readonly worker: Worker
  /** Of those whose hearts beat in it. */
  readonly listeners = new Set<BeatListener>()

  constructor() {
    const source = import.meta.url.endsWith('.ts')
    this.worker = new Worker(new URL(`./beat-thread.${source ? 'ts' : 'js'}`, import.meta.url), {
      execArgv: source ? ['--conditions=development', '--no-warnings'] : [],
      name: 'leasehold-heartbeat',
    })
    this.worker.on('error', (error) => this.died(error as Error))
    this.worker.on('exit', () => this.died(new Error('the heartbeat thread ended')))
  }

  private died(error: Error): void {
    if (current === this) current = null
    const left = [...this.listeners]
    this.listeners.clear()
    for (const listener of left) listener.died(error)
  }
}

let current: BeatThread | null = null

/** Starts to beat for a worker. */
export function startBeating(data: BeatData, listener: BeatListener): Beating {
  const thread = (current ??= new BeatThread())
  thread.listeners.add(listener)
  const { port1: port, port2: other } = new MessageChannel()
  port.on('message', (message: BeatMessage) => listener.heard(message))
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, no window
  thread.worker.postMessage({ data, port: other } satisfies NewHeart, [other])
  return {
    now() {
      // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread's port, no window
      port.postMessage('now')
    },
    async stop() {
      const alive = thread.listeners.delete(listener)
      if (alive && thread.listeners.size > 0) {
        const closed = once(port, 'close')
        // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread's port, no window
        port.postMessage('stop')
        await within(closeWithinMs, closed)
      } else if (alive) {
        if (current === thread) current = null
        await thread.worker.terminate()
      }
      port.close()
    },
  }
}
