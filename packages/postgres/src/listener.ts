/**
 * Hears notifications: LISTEN on a connection of its own, pinged, made again whenever it is lost.
 *
 * A hint only, never the truth. While it is down `hearing` is false and whoever uses it polls faster.
 * Behind a pooler in transaction mode nothing can be heard: it notices that, keeps no connection and stays deaf.
 */
import { Client } from 'pg'
import { OutageLog, retryDelayMs, sleep } from './outage.ts'
import { inOwnSession, saysPooler } from './pinned-client.ts'

const pingIntervalMs = 10_000
const pingTimeoutMs = 5_000

/** Where and what to listen to. */
export interface ListenerOptions {
  readonly connectionString: string
  readonly applicationName: string
  readonly channels: readonly string[]
  /** Called for each notification, and once whenever listening (re)starts: something may have been missed. */
  readonly wake: () => void
  /** The longest pause between tries while the database is away; default 5 s. */
  readonly maxRetryMs?: number
}

/** Listens to some channels until stopped. */
export class Listener {
  hearing = false
  private deaf = false
  private readonly options: ListenerOptions
  private readonly stopped = new AbortController()
  private readonly outage = new OutageLog()
  /** Resolves when it has stopped for good: when it was told to, or because there is nothing to hear. */
  readonly over: Promise<void>

  constructor(options: ListenerOptions) {
    this.options = options
    this.over = this.run()
  }

  private async run(): Promise<void> {
    if (saysPooler(this.options.connectionString)) return
    while (!this.stopped.signal.aborted) {
      await this.listenUntilLost().catch(() => {})
      this.hearing = false
      if (this.deaf) return
      this.outage.failed()
      await sleep(retryDelayMs(this.outage.count, this.options.maxRetryMs), this.stopped.signal)
    }
  }

  private async listenUntilLost(): Promise<void> {
    const client = new Client({
      connectionString: this.options.connectionString,
      application_name: this.options.applicationName,
      connectionTimeoutMillis: pingTimeoutMs,
      query_timeout: pingTimeoutMs,
      keepAlive: true,
    })
    const lost = new AbortController()
    client.on('error', () => lost.abort())
    client.on('end', () => lost.abort())
    client.on('notification', this.options.wake)
    const stop = () => lost.abort()
    this.stopped.signal.addEventListener('abort', stop)
    try {
      await client.connect()
      const own = await client.query(`select where ${inOwnSession(client)}`)
      if (own.rowCount === 0) {
        this.deaf = true
        return
      }
      for (const channel of this.options.channels)
        await client.query(`listen ${client.escapeIdentifier(channel)}`)
      this.hearing = true
      this.outage.recovered()
      this.options.wake() // what was submitted while nobody listened
      while (!lost.signal.aborted) {
        await sleep(pingIntervalMs, lost.signal)
        // A half-open connection answers nothing; a pooler that could not be told has moved us where no channels are.
        if (!lost.signal.aborted) {
          const { rowCount } = await client.query('select pg_listening_channels()')
          if (!rowCount) throw new Error('the connection no longer listens')
        }
      }
    } finally {
      this.stopped.signal.removeEventListener('abort', stop)
      client.end().catch(() => {})
    }
  }

  async stop(): Promise<void> {
    this.stopped.abort()
    await this.over
  }
}
