/**
 * A runner: takes a slot, works until it is told to stop, and leaves in order.
 *
 * Start: stages registered, slot taken (what an earlier incarnation held is free at once), then one life after the other
 * (life.ts): a worker that was declared dead while it could not beat goes on under a new id; one whose slot was taken by
 * another process ends. A database that is away only delays: nothing here gives up.
 * Never exits the process, reads the environment or handles signals: daemons/runner does.
 */
import { randomUUID } from 'node:crypto'
import { hostname } from 'node:os'
import {
  leave,
  LeaseholdError,
  registerStage,
  registerWorker,
  type WorkerRegistration,
} from '@leasehold/queue'
import { Listener, openPool, OutageLog, retryDelayMs, within } from '@leasehold/postgres'
import { defaultTimeoutMs } from './capacity.ts'
import { attendDuties } from './duties.ts'
import { Life } from './life.ts'
import { fillIn, type RunnerOptions, type Settings } from './options.ts'
import { pauseInSteps, stepOf } from './pause.ts'
import type { Counts } from './settlement.ts'

type Pool = ReturnType<typeof openPool>

/** Another process has taken the slot; this runner ended and must not fight for it. */
export class SlotTakenError extends LeaseholdError {
  readonly slot: string

  constructor(slot: string) {
    super(
      'SLOT_TAKEN',
      `Slot ${slot} was taken over by another process. Give each process a slot of its own.`,
    )
    this.slot = slot
  }
}

/** Numbers since the start. */
export type RunnerCounts = Readonly<Counts> & {
  /** Tasks claimed and not yet settled. */
  readonly held: number
}

/** A started runner. */
export interface Runner {
  /** Changes when the worker was declared dead and went on under a new id. */
  readonly workerId: string
  readonly slot: string
  readonly counts: RunnerCounts
  /**
   * That nobody watches: for how long no monitor has looked (null: none ever did), when that is longer than it should be.
   * Undefined: one does, as far as is known.
   */
  readonly unwatchedMs: number | null | undefined
  /** Claims nothing more, finishes or releases what runs, leaves. Resolves when all is closed. */
  drain(): Promise<void>
  /** Releases what runs at once, and leaves. */
  stopNow(): Promise<void>
  /** Resolves when the runner has ended for whatever reason; rejects with {@link SlotTakenError} or a fault. */
  readonly ended: Promise<void>
}

/**
 * Starts a runner; resolves when it holds its slot. While the database is away it keeps trying, until `signal` aborts
 * (then it rejects with the signal's reason, and holds no slot). Throws ConfigError for settings that cannot work.
 */
export async function startRunner(options: RunnerOptions, signal?: AbortSignal): Promise<Runner> {
  const running = new RunnerProcess(fillIn(options))
  await running.start(signal ?? new AbortController().signal)
  return running
}

const registrationWithinMs = 3000

class RunnerProcess implements Runner {
  readonly ended: Promise<void>

  private readonly settings: Settings
  private readonly tally: Counts = {
    claimed: 0,
    settled: 0,
    refused: 0,
    unconfirmed: 0,
    stuck: 0,
    exchanges: 0,
  }
  private readonly exchangePool: Pool
  private readonly handlerPool: Pool
  private readonly sidePool: Pool
  private readonly end = Promise.withResolvers<void>()
  private readonly draining = new AbortController()
  private readonly hurry = new AbortController()
  private readonly closing = new AbortController()
  private listener: Listener | null = null
  private silence: { readonly ms: number | null; readonly heardAt: number } | undefined
  private life!: Life

  constructor(settings: Settings) {
    this.settings = settings
    const pool = (what: string, max: number, more: object) =>
      openPool({
        connectionString: settings.connectionString,
        applicationName: `leasehold ${what} ${settings.slot}`,
        max,
        ...more,
      })
    // No wait for the database is so long that the main loop seems to stand still.
    const waitMs = Math.min(30_000, Math.max(1000, settings.wedgeLimitMs / 3))
    const bounded = { queryTimeoutMs: waitMs, connectTimeoutMs: Math.min(waitMs, 10_000) }
    this.exchangePool = pool('exchange', 2, { ...bounded, idleTimeoutMs: 0 })
    this.sidePool = pool('duties', 1, bounded)
    // Handlers may have to wait for each other.
    this.handlerPool = pool('handlers', settings.handlerConnections, {
      connectTimeoutMs: 60_000,
      userStatements: true,
    })
    this.ended = this.end.promise
    this.ended.catch(() => {}) // whoever started us may choose not to listen
  }

  get slot(): string {
    return this.settings.slot
  }

  get workerId(): string {
    return this.life.workerId
  }

  get counts(): RunnerCounts {
    return { ...this.tally, held: this.life.loop.ledger.held.size }
  }

  get unwatchedMs(): number | null | undefined {
    if (this.silence === undefined) return undefined
    const { ms, heardAt } = this.silence
    if (ms === null) return null
    const silentMs = ms + performance.now() - heardAt
    return ms > this.settings.monitorSilentAfterMs ? silentMs : undefined
  }

  /** Takes the slot and begins to work. Rejects with the signal's reason when it aborts before that. */
  async start(signal: AbortSignal): Promise<void> {
    try {
      const life = await this.takeSlot(signal)
      if (life === null) throw signal.reason
      this.life = life
    } catch (error) {
      await this.close()
      throw error
    }
    this.listen()
    void this.attend()
    this.liveOn().then(this.end.resolve, this.end.reject)
  }

  /** A registered life, however long the database takes to answer; null when `stop` aborts before. */
  private async takeSlot(stop: AbortSignal): Promise<Life | null> {
    const { settings } = this
    const outage = new OutageLog()
    // Named, so that it is the same start when the answer to a registration is lost and it is sent again.
    const start = randomUUID()
    const givenUp = afterAbort(stop, registrationWithinMs)
    while (!stop.aborted) {
      settings.onTurn?.()
      try {
        const registering = this.register(start)
        const given = await Promise.race([registering, givenUp])
        if (given === null) {
          registering.catch(() => {})
          return null
        }
        if (!stop.aborted) return this.beginLife(given)
        await leave(this.sidePool, given.registration.workerId, 'graceful-shutdown').catch(() => {})
      } catch (error) {
        if (error instanceof LeaseholdError || isRefusal(error)) throw error
        if (outage.failed()) {
          const facts = { event: 'start.waiting', message: (error as Error).message }
          settings.log.warn(facts, 'the database cannot be used yet; trying again')
        }
        const turned = (): void => settings.onTurn?.()
        const stepMs = stepOf(settings)
        await pauseInSteps(retryDelayMs(outage.count, settings.maxRetryMs), { stepMs, stop, turned })
      }
    }
    return null
  }

  private async register(start: string): Promise<{ registration: WorkerRegistration; atNs: bigint }> {
    const { settings } = this
    for (const stage of settings.stages) {
      // What its definition does not limit is not limited: taking a limit out of a program takes it away.
      const limits = { ...stage.limits, rate: stage.limits?.rate ?? null }
      // A timeout that was taken out must not stay the database's: leases would end by it, and handlers by ours.
      await registerStage(this.sidePool, { ...stage, limits, timeout: stage.timeout ?? defaultTimeoutMs })
    }
    const atNs = process.hrtime.bigint()
    const registration = await registerWorker(this.sidePool, {
      slot: settings.slot,
      // Who takes the tasks of one run only serves no stage: others must not be told that somebody is there for theirs.
      stages: settings.runFilterId === undefined ? settings.stages.map((s) => s.name) : [],
      leaseTtlMs: settings.leaseTtlMs,
      beatIntervalMs: settings.beatIntervalMs,
      host: hostname(),
      pid: process.pid,
      version: settings.version,
      concurrency: settings.concurrency,
      meta: {
        start,
        ...(settings.runFilterId !== undefined && { run: settings.runFilterId }),
        ...(settings.schemaVersion !== undefined && { schema: settings.schemaVersion }),
      },
    })
    return { registration, atNs }
  }

  private beginLife({ registration, atNs }: { registration: WorkerRegistration; atNs: bigint }): Life {
    const { workerId, superseded, released, quarantined } = registration
    const found = { superseded, takenOver: released.length, quarantined: quarantined.length }
    this.settings.log.info(
      { event: 'slot.taken', slot: this.slot, workerId, ...found },
      superseded === null
        ? 'slot taken'
        : 'slot taken over from an earlier process; its tasks are free again',
    )
    return new Life(workerId, atNs, {
      settings: this.settings,
      exchangeDb: this.exchangePool,
      handlerDb: this.handlerPool,
      sideDb: this.sidePool,
      counts: this.tally,
      hearing: () => this.listener?.hearing ?? false,
      drainAsked: () => this.beginDrain(),
    })
  }

  private listen(): void {
    const { settings } = this
    if (!settings.listen) return
    this.listener = new Listener({
      connectionString: settings.connectionString,
      applicationName: `leasehold listen ${this.slot}`,
      channels: settings.stages.map((s) => `leasehold:${s.name}`),
      wake: () => this.life.loop.wake(),
      maxRetryMs: settings.maxRetryMs,
    })
  }

  private attend(): Promise<void> {
    const { settings } = this
    return attendDuties(
      {
        db: this.sidePool,
        log: settings.log,
        traffic: () => this.tally.exchanges,
        lookEveryMs: settings.beatIntervalMs,
        monitorSilentAfterMs: settings.monitorSilentAfterMs,
        maxRetryMs: settings.maxRetryMs,
        sure: () => this.life.leaseLeftMs > 0,
        silence: (ms) => (this.silence = { ms, heardAt: performance.now() }),
        released: () => this.life.loop.wake(),
      },
      this.closing.signal,
    )
  }

  /** Lives one worker id after the other until told to stop. */
  private async liveOn(): Promise<void> {
    const { log, abortGraceMs } = this.settings
    try {
      for (;;) {
        const end = await this.life.run(this.draining.signal, this.hurry.signal)
        if (end.left) {
          log.info({ event: 'runner.left', workerId: this.workerId, ...this.counts }, 'left')
          return
        }
        const facts = { event: 'worker.ended', workerId: this.workerId, reason: end.reason }
        log.error(facts, 'this worker was declared dead; all it ran was aborted')
        if (end.reason === 'superseded') throw new SlotTakenError(this.slot)
        await this.life.loop.attempts.quiet(abortGraceMs) // so that no more handlers run than the concurrency allows
        const next = await this.takeSlot(this.draining.signal)
        if (next === null) return
        this.life = next
      }
    } finally {
      await this.close()
    }
  }

  private beginDrain(): void {
    if (this.draining.signal.aborted) return
    this.settings.log.info(
      { event: 'drain.begun', held: this.counts.held },
      'draining: nothing more is claimed',
    )
    this.draining.abort()
    this.settings.onDrain?.()
  }

  async drain(): Promise<void> {
    this.beginDrain()
    await this.ended.catch(() => {})
  }

  async stopNow(): Promise<void> {
    this.hurry.abort()
    await this.drain()
  }

  private async close(): Promise<void> {
    this.closing.abort()
    const pools = [this.exchangePool, this.handlerPool, this.sidePool].map((p) => p.end().catch(() => {}))
    // Neither a handler that never gives its connection back nor a database that does not answer must keep the process.
    await within(1000, Promise.all([...pools, this.listener?.stop()]))
  }
}

/** Null, `ms` after the signal has aborted. */
function afterAbort(signal: AbortSignal, ms: number): Promise<null> {
  return new Promise((resolve) => {
    const wait = () => void setTimeout(() => resolve(null), ms).unref()
    if (signal.aborted) wait()
    else signal.addEventListener('abort', wait, { once: true })
  })
}

/** The database understood and said no: waiting would not change it. */
function isRefusal(error: unknown): boolean {
  return /^(22|23|28|3D|3F|42|LH)/.test((error as { code?: string }).code ?? '')
}
