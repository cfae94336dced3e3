/**
 * The dead-man's switch: somebody outside is told that this monitor looks, and raises the alarm when that stops.
 *
 * Invariant: it is asked only after a look that succeeded and while whoever has to be told can be (why_untold), never waits
 * in the way of the next look, and has at most one request on its way. The address is a secret (who knows it can keep the
 * alarm quiet) and is never logged.
 */
import { describeError } from '@leasehold/queue'
import { exchange } from './channels/http-exchange.ts'
import type { Log } from './log.ts'

const totalMs = 5_000

/** Pings one address. */
export class Ping {
  private readonly url: URL
  private readonly log: Log
  private failing = false
  private readonly stopped = new AbortController()
  private onItsWay: Promise<void> | null = null

  constructor(url: string, log: Log) {
    this.url = new URL(url)
    this.log = log
  }

  /** A look succeeded. Returns at once; while an earlier ping is on its way this one is left out. */
  looked(): void {
    this.onItsWay ??= this.ping().finally(() => {
      this.onItsWay = null
    })
  }

  /** Ends what is on its way. */
  async stop(): Promise<void> {
    this.stopped.abort()
    await this.onItsWay
  }

  private async ping(): Promise<void> {
    try {
      const { status } = await exchange(this.url, { method: 'GET', totalMs }, this.stopped.signal)
      if (status < 200 || status >= 300) throw new Error(`it answered ${status}`)
      if (this.failing) this.log.info({ event: 'ping.answers' }, 'LEASEHOLD_PING_URL answers again')
      this.failing = false
    } catch (error) {
      if (this.stopped.signal.aborted || this.failing) return
      this.failing = true
      const reason = describeError(error).message
      this.log.warn({ event: 'ping.failed', reason }, 'LEASEHOLD_PING_URL does not answer; looks go on')
    }
  }
}
