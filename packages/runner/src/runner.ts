/**
 * A runner: takes a slot, works until it is told to stop, and leaves in order.
 *
 * Start: stages registered, slot taken (what an earlier incarnation held is free at once), heart beating, loop turning.
 * Drain: nothing more is claimed; what runs is finished, or given back when the drain limit is over; the worker leaves;
 * beats stop last. A database that is away only delays: nothing here gives up. A worker that was declared dead while it
 * could not beat starts again under a new id; one whose slot was taken by another process ends.
 * Never exits the process, reads the environment or handles signals: daemons/runner does.
 */
import { hostname } from 'node:os'
import {
  type BeatAnswer,
  type Db,
  leave,
  LeaseholdError,
  registerStage,
  registerWorker,
  type WorkerRegistration,
} from '@leasehold/queue'
import { Listener, openPool, OutageLog, retryDelayMs, sleep } from '@leasehold/postgres'
import { attendDuties } from './duties.ts'
import { Heart } from './heart.ts'
import { Loop, type LoopHost } from './loop.ts'
import { fillIn, type RunnerOptions, type Settings } from './options.ts'

type Pool = ReturnType<typeof openPool>

/** Another process has taken the slot; this runner ended and must not fight for it. */
export class SlotTakenError extends LeaseholdError {
  readonly slot: string

  constructor(slot: string) {
    super('SLOT_TAKEN', `Slot ${slot} was taken over by another process. Give each process a slot of its own.`)
    this.slot = slot
  }
}

/** Numbers since the start. */
export interface RunnerCounts {
  readonly claimed: number
  readonly settled: number
  readonly refused: number
  readonly stuck: number
  readonly exchanges: number
  readonly held: number
}

/** A started runner. */
export interface Runner {
  readonly workerId: string
  readonly slot: string
  readonly counts: RunnerCounts
  /** Claims nothing more, finishes or releases what runs, leaves. Resolves when all is closed. */
  drain(): Promise<void>
  /** Releases what runs at once, and leaves. */
  stopNow(): Promise<void>
  /** Resolves when the runner has ended for whatever reason; rejects with {@link SlotTakenError} or a fault. */
  readonly ended: Promise<void>
}

/**
 * Starts a runner; resolves when it holds its slot. While the database is away it keeps trying, until `signal` aborts
 * (then it rejects with the signal's reason). Throws ConfigError for settings that cannot work.
 */
export async function startRunner(options: RunnerOptions, signal?: AbortSignal): Promise<Runner> {
  const running = new RunnerProcess(fillIn(options))
  await running.takeSlot(signal)
  running.begin()
  return running
}

class RunnerProcess implements Runner {
  workerId = ''
  readonly ended: Promise<void>

  private readonly settings: Settings
  private readonly exchangePool: Pool
  private readonly handlerPool: Pool
  private readonly dutyPool: Pool
  private listener: Listener | null = null
  private heart!: Heart
  private loop!: Loop
  private stopLoop = new AbortController()
  private readonly stopDuties = new AbortController()
  private stopping: 'no' | 'drain' | 'now' = 'no'
  private hurry = new AbortController()
  private lostReason: string | null = null
  private registeredAtNs = 0n
  private finish!: () => void
  private fault!: (error: Error) => void

  constructor(settings: Settings) {
    this.settings = settings
    const pool = (what: string, max: number, more: object) =>
      openPool({
        connectionString: settings.connectionString,
        applicationName: `leasehold ${what} ${settings.slot}`,
        max,
        ...more,
      })
    this.exchangePool = pool('exchange', 2, { queryTimeoutMs: 30_000, idleTimeoutMs: 0 })
    this.handlerPool = pool('handlers', settings.handlerConnections, {})
    this.dutyPool = pool('duties', 1, { queryTimeoutMs: 30_000 })
    this.ended = new Promise((resolve, reject) => {
      this.finish = resolve
      this.fault = reject
    })
    this.ended.catch(() => {}) // whoever started us may choose not to listen
  }

  get slot(): string {
    return this.settings.slot
  }

  get counts(): RunnerCounts {
    return { ...this.loop.counts, held: this.loop.ledger.held.size }
  }

  /** Registers stages and worker, however long the database takes to answer. */
  async takeSlot(signal?: AbortSignal): Promise<void> {
    const { settings } = this
    const outage = new OutageLog()
    for (;;) {
      if (signal?.aborted) {
        await this.closePools()
        throw signal.reason
      }
      try {
        for (const stage of settings.stages) await registerStage(this.dutyPool as Db, stage)
        this.registeredAtNs = process.hrtime.bigint()
        this.tookSlot(await registerWorker(this.dutyPool as Db, this.introduction()))
        return
      } catch (error) {
        if (error instanceof LeaseholdError || isRefusal(error)) {
          await this.closePools()
          throw error
        }
        if (outage.failed()) {
          const facts = { event: 'start.waiting', message: (error as Error).message }
          settings.log.warn(facts, 'the database cannot be used yet; trying again')
        }
        await sleep(retryDelayMs(outage.count), signal)
      }
    }
  }

  private introduction() {
    const { settings } = this
    return {
      slot: settings.slot,
      stages: settings.stages.map((s) => s.name),
      leaseTtlMs: settings.leaseTtlMs,
      beatIntervalMs: settings.beatIntervalMs,
      host: hostname(),
      pid: process.pid,
      version: settings.version,
      concurrency: settings.concurrency,
    }
  }

  private tookSlot(registration: WorkerRegistration): void {
    this.workerId = registration.workerId
    const { superseded, released, quarantined } = registration
    this.settings.log.info(
      {
        event: 'slot.taken',
        slot: this.slot,
        workerId: this.workerId,
        superseded,
        takenOver: released.length,
        quarantined: quarantined.length,
      },
      superseded === null ? 'slot taken' : 'slot taken over from an earlier process; its tasks are free again',
    )
  }

  begin(): void {
    const { settings } = this
    this.beginLife()
    if (settings.listen) {
      this.listener = new Listener({
        connectionString: settings.connectionString,
        applicationName: `leasehold listen ${this.slot}`,
        channels: settings.stages.map((s) => `leasehold:${s.name}`),
        wake: () => this.loop.wake(),
      })
    }
    void attendDuties(
      {
        db: this.dutyPool as Db,
        log: settings.log,
        traffic: () => this.loop.counts.exchanges,
        lookEveryMs: settings.beatIntervalMs,
        monitorSilentAfterMs: settings.monitorSilentAfterMs,
        released: (dead) => {
          for (const w of dead) {
            const facts = { event: 'worker.released', deadWorkerId: w.workerId, slot: w.slot, released: w.released.length }
            settings.log.warn(facts, 'a dead worker was released')
          }
          this.loop.wake()
        },
      },
      this.stopDuties.signal,
    )
    this.liveOn().then(this.finish, this.fault)
  }

  private beginLife(): void {
    const { settings } = this
    this.lostReason = null
    this.stopLoop = new AbortController()
    this.heart = new Heart(
      {
        connectionString: settings.connectionString,
        workerId: this.workerId,
        slot: this.slot,
        beatIntervalMs: settings.beatIntervalMs,
        leaseTtlMs: settings.leaseTtlMs,
        wedgeLimitMs: settings.wedgeLimitMs,
      },
      this.registeredAtNs,
      {
        answered: (answer) => this.beatAnswered(answer),
        failed: (message) => settings.log.warn({ event: 'beat.failed', message }, 'a beat was not acknowledged; trying again'),
        recovered: (failures) => settings.log.info({ event: 'beat.back', failures }, 'beats are acknowledged again'),
        wedged: (loopAgeMs) => settings.log.error({ event: 'loop.wedged', loopAgeMs }, 'the main loop stands still; leases are no longer renewed'),
        stopped: (error) => this.fault(error),
      },
    )
    const host: LoopHost = {
      settings,
      exchangeDb: this.exchangePool as Db,
      handlerDb: this.handlerPool as Db,
      workerId: this.workerId,
      log: settings.log,
      leaseLeftMs: () => this.heart.leftMs,
      hearing: () => this.listener?.hearing ?? false,
      turned: (held, oldestFence) => {
        this.heart.state.turn()
        this.heart.state.hold(held, oldestFence)
      },
      beatNow: () => this.heart.beatNow(),
      workerEnded: (reason) => this.lost(reason),
      drainAsked: () => void this.drain(),
    }
    this.loop = new Loop(host)
    if (this.stopping !== 'no') this.loop.draining = true
  }

  private beatAnswered(answer: BeatAnswer): void {
    if (answer.state !== 'live') return this.lost(answer.reason ?? answer.state)
    this.loop.takeRevocations(answer.revoked)
    if (answer.drain) void this.drain()
  }

  /** This worker id is over: what runs is aborted, its settlements would be refused. */
  private lost(reason: string): void {
    if (this.lostReason !== null) return
    this.lostReason = reason
    this.loop.abortAll('lease-lost', `the worker was ended: ${reason}`)
    this.stopLoop.abort()
  }

  /** Lives one worker id after the other until told to stop. */
  private async liveOn(): Promise<void> {
    for (;;) {
      await this.loop.run(this.stopLoop.signal)
      const reason: string | null = this.lostReason
      if (reason === null) return this.leaveInOrder()
      this.settings.log.error({ event: 'worker.ended', workerId: this.workerId, reason }, 'this worker was declared dead; all it ran was aborted')
      if (reason === 'superseded') {
        await this.close()
        throw new SlotTakenError(this.slot)
      }
      if (this.stopping !== 'no') return this.close()
      await this.heart.stop()
      await this.takeSlot(this.hurry.signal)
      this.beginLife()
    }
  }

  async drain(): Promise<void> {
    if (this.stopping === 'no') {
      this.stopping = 'drain'
      this.loop.draining = true
      this.heart.state.drain()
      this.settings.log.info({ event: 'drain.begun', held: this.loop.ledger.held.size }, 'draining: nothing more is claimed')
      void this.drainLoop()
    }
    await this.ended.catch(() => {})
  }

  async stopNow(): Promise<void> {
    const first = this.stopping === 'no'
    this.stopping = 'now'
    this.loop.draining = true
    this.hurry.abort()
    if (first) void this.drainLoop()
    await this.ended.catch(() => {})
  }

  /** Waits until nothing is held, at most for the drain limit; then gives back what runs, and ends the loop. */
  private async drainLoop(): Promise<void> {
    const until = performance.now() + this.settings.drainTimeoutMs
    const heldAny = () => this.loop.ledger.held.size > 0
    this.loop.wake()
    while (heldAny() && performance.now() < until && !this.hurry.signal.aborted && this.lostReason === null) {
      await sleep(20, this.hurry.signal)
    }
    const running = [...this.loop.ledger.held.values()].filter((e) => e.end === null).length
    if (running > 0) {
      this.settings.log.warn({ event: 'drain.release', running }, 'the drain limit is over: what still runs is given back')
      this.loop.abortAll('drain', 'the worker shuts down')
    }
    // The loop settles what has ended; a database that is away gets a few seconds, then leases simply run out.
    const settleUntil = performance.now() + 5000
    while (heldAny() && performance.now() < settleUntil && this.lostReason === null) await sleep(10)
    this.stopLoop.abort()
  }

  private async leaveInOrder(): Promise<void> {
    await this.listener?.stop()
    this.stopDuties.abort()
    const limit = sleep(5000)
    await Promise.race([leave(this.exchangePool as Db, this.workerId, 'graceful-shutdown').catch(() => {}), limit])
    await this.close()
    this.settings.log.info({ event: 'runner.left', workerId: this.workerId, ...this.counts }, 'left')
  }

  private async close(): Promise<void> {
    this.stopDuties.abort()
    await this.listener?.stop()
    await this.heart.stop() // last
    await this.closePools()
  }

  private async closePools(): Promise<void> {
    const ends = [this.exchangePool, this.handlerPool, this.dutyPool].map((p) => p.end().catch(() => {}))
    // A handler that never gives its connection back must not keep the process.
    await Promise.race([Promise.all(ends), sleep(2000)])
  }
}

/** The database understood and said no: waiting would not change it. */
function isRefusal(error: unknown): boolean {
  return /^(22|23|28|3D|3F|42|LH)/.test((error as { code?: string }).code ?? '')
}
