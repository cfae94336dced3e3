/**
 * The monitor as a whole: the loop of looks, the loop of floors, the side jobs; started and stopped together.
 *
 * Invariant: it ends only by `stop`. A database that is away is tried again with a capped, jittered wait; a mail server
 * that is away is not noticed here at all. Reading the environment, signals and the exit are main.ts's.
 */
import { randomUUID } from 'node:crypto'
import { hostname } from 'node:os'
import { openPool, retryDelayMs, sleep, within } from '@leasehold/postgres'
import { ConfigError, type ConfigProblem } from '@leasehold/queue'
import { Contact } from './contact.ts'
import { keepFloors } from './floors.ts'
import type { Log } from './log.ts'
import { type Look, look } from './look.ts'
import type { Channel } from './channels/channel.ts'
import { type ChannelSettings, openChannels } from './channels/open.ts'
import type { RetryPace } from './outbox.ts'
import { Ping } from './ping.ts'
import { SideJobs } from './side-jobs.ts'
import { type MonitorIntroduction, monitorLeave } from './verbs.ts'

/** How a monitor is started. Times are milliseconds. Without any channel alerts are kept in leasehold.alerts and not sent. */
export interface MonitorOptions extends ChannelSettings {
  readonly connectionString: string
  /** From the end of one look to the next; 100 ms to 1 h. */
  readonly intervalMs: number
  /** A main loop that stands still for longer is an incident, although its worker beats. */
  readonly wedgeLimitMs: number
  /** A stage may have work and no worker, or fewer than expected, for so long: time to restart one. */
  readonly lonelyAfterMs: number
  /** Asked after each look that succeeded, unless nobody can be told; null or absent: nobody outside watches. */
  readonly pingUrl?: string | null
  readonly log: Log
  /** Shown in leasehold.monitors. */
  readonly version?: string
  /** How alerts that were not taken are tried again; default 5 s doubling to 5 min. */
  readonly mailRetry?: RetryPace
  /** Called after each look of the loop. Must not throw. */
  readonly onTick?: (found: Look) => void
}

/** A running monitor. */
export interface Monitor {
  /** Its id in leasehold.monitors. */
  readonly id: string
  /** Looks once, now; looks of one monitor never overlap. Throws when the database fails. */
  tick(): Promise<Look>
  /** Since when the loop of looks has not come round, apart from its regular wait: a watchdog's question. */
  overdueMs(): number
  /** Ends the loops, lets an alert that is on its way finish for 5 s, says goodbye. Idempotent, never rejects. */
  stop(): Promise<void>
}

const defaultRetry: RetryPace = { firstMs: 5_000, maxMs: 300_000 }
/** After an outage of this length graphile-worker is started anew (see SideJobs.refresh). */
const longOutageMs = 10_000
/** What is less is steering, not setting. */
const backwardsMs = 60_000

/**
 * Starts a monitor; it is looking when this answers, and goes on whether or not the database can be reached.
 *
 * Any number of monitors may run on one database: one looks at a time, and each incident is told once.
 * Throws {@link ConfigError} when an option makes no sense.
 */
export function startMonitor(options: MonitorOptions): Promise<Monitor> {
  const problems = check(options)
  if (problems.length > 0) return Promise.reject(new ConfigError(problems))
  return Promise.resolve(new RunningMonitor(options))
}

function check(options: MonitorOptions): ConfigProblem[] {
  const problems: ConfigProblem[] = []
  const within = (name: 'intervalMs' | 'wedgeLimitMs' | 'lonelyAfterMs', min: number, max: number): void => {
    const value = options[name]
    if (!(value >= min && value <= max))
      problems.push({ name, problem: `must be ${min} to ${max} milliseconds` })
  }
  within('intervalMs', 100, 3_600_000)
  within('wedgeLimitMs', 100, 86_400_000)
  within('lonelyAfterMs', 0, 86_400_000)
  if (options.smtp !== null && options.smtp.to.length === 0)
    problems.push({ name: 'smtp.to', problem: 'must name at least one address' })
  const retry = options.mailRetry ?? defaultRetry
  if (!(retry.firstMs >= 1 && retry.maxMs >= retry.firstMs && retry.maxMs <= defaultRetry.maxMs))
    problems.push({
      name: 'mailRetry',
      problem: `must grow from at least 1 ms to at most ${defaultRetry.maxMs} ms`,
    })
  return problems
}

class RunningMonitor implements Monitor {
  readonly id: string = randomUUID()
  private readonly options: MonitorOptions
  private readonly introduction: MonitorIntroduction
  private readonly pool: ReturnType<typeof openPool>
  private readonly contact: Contact
  private readonly sideJobs: SideJobs
  private readonly channels: readonly Channel[]
  private readonly ping: Ping | null
  private readonly stopping = new AbortController()
  private readonly loops: Promise<unknown>
  private current: Promise<unknown> = Promise.resolve()
  private dueAt = performance.now()
  private untold = false
  /** This machine's clock, counted from its monotonic one. */
  private clockAheadMs = Date.now() - performance.now()
  private stopped: Promise<void> | null = null

  constructor(options: MonitorOptions) {
    const { connectionString, intervalMs, pingUrl, log } = options
    this.options = options
    this.introduction = {
      id: this.id,
      host: hostname(),
      pid: process.pid,
      version: options.version ?? 'unknown',
      intervalMs,
    }
    this.pool = openPool({
      connectionString,
      applicationName: 'leasehold monitor',
      max: 3,
      connectTimeoutMs: 5_000,
      queryTimeoutMs: 70_000,
    })
    this.contact = new Contact(log)
    const pace = options.mailRetry ?? defaultRetry
    this.channels = openChannels(options)
    this.ping = pingUrl ? new Ping(pingUrl, log) : null
    this.sideJobs = new SideJobs({ connectionString, channels: this.channels, pace, log })
    if (this.channels.length === 0) {
      log.warn(
        { event: 'alerts.off' },
        'no channel is configured (SMTP_HOST …): alerts are kept in leasehold.alerts only, nobody is told',
      )
    }
    this.loops = Promise.all([this.keepLooking(), keepFloors(this.pool, this.contact, this.stopping.signal)])
  }

  tick(): Promise<Look> {
    const { wedgeLimitMs, lonelyAfterMs, log } = this.options
    const next = this.current.then(() =>
      look({
        db: this.pool,
        monitor: this.introduction,
        limits: { wedgeLimitMs, lonelyAfterMs },
        contact: this.contact,
        log,
        channels: this.channels.map(({ name }) => name),
        canRequestDelivery: () => this.sideJobs.ready,
      }),
    )
    this.current = next.catch(() => {})
    return next
  }

  overdueMs(): number {
    return Math.max(0, performance.now() - this.dueAt)
  }

  stop(): Promise<void> {
    this.stopped ??= this.shutDown()
    return this.stopped
  }

  private async keepLooking(): Promise<void> {
    const { signal } = this.stopping
    while (!signal.aborted) {
      let waitMs: number
      try {
        const awayMs = this.contact.awayMs
        const found = await this.tick()
        if (awayMs > longOutageMs || this.clockWentBack()) this.sideJobs.refresh()
        this.options.onTick?.(found)
        if (found.looked) this.answerFor(found)
        waitMs = found.unfinished ? 0 : Math.min(this.options.intervalMs, found.againMs ?? Infinity)
      } catch (error) {
        this.contact.failed('look', error)
        waitMs = Math.min(this.options.intervalMs, retryDelayMs(this.contact.failures))
      }
      this.dueAt = performance.now() + waitMs
      await sleep(waitMs, signal)
    }
  }

  /** Whoever watches from outside is to hear that nobody can be told, by hearing nothing. */
  private answerFor({ untold }: Look): void {
    if (untold === null) this.ping?.looked()
    if (this.untold === (untold !== null)) return
    this.untold = untold !== null
    const { log } = this.options
    if (untold === null) log.info({ event: 'alerts.told' }, 'people can be told again')
    else log.error({ event: 'alerts.untold', reason: untold }, 'nobody can be told')
  }

  /** True once after this machine's clock was set back by more than a minute. */
  private clockWentBack(): boolean {
    const aheadMs = Date.now() - performance.now()
    const went = aheadMs < this.clockAheadMs - backwardsMs
    this.clockAheadMs = aheadMs
    return went
  }

  private async shutDown(): Promise<void> {
    this.stopping.abort()
    await Promise.all([
      this.sideJobs.stop(),
      this.ping?.stop(),
      within(5_000, Promise.all([this.loops, this.current])),
    ])
    await within(2_000, monitorLeave(this.pool, this.id))
    await within(1_000, this.pool.end())
  }
}
