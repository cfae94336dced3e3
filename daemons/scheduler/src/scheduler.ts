/**
 * The scheduler as a whole: a loop of turns that sleeps until the next slot is due.
 *
 * Invariant: it ends only by `stop`. A database that is away is tried again with a capped, jittered wait. How long to
 * sleep is counted by the database's clock, so this machine's may be wrong; a change made meanwhile is seen within
 * `pollMs`. Reading the environment, signals and the exit are daemon.ts's.
 */
import { randomUUID } from 'node:crypto'
import { hostname } from 'node:os'
import { OutageLog, openPool, retryDelayMs, sleep, within } from '@leasehold/postgres'
import { ConfigError, type SchedulerIntroduction, describeError, schedulerLeave } from '@leasehold/queue'
import { type Turn, tick } from './tick.ts'

/** What a scheduler needs of a log: facts first, then a constant message. */
export interface Log {
  info(facts: object, message: string): void
  warn(facts: object, message: string): void
  error(facts: object, message: string): void
}

export interface SchedulerOptions {
  readonly connectionString: string
  /** The longest sleep between two looks; 100 ms to 30 s. */
  readonly pollMs: number
  readonly log: Log
  /** Shown in leasehold.schedulers. */
  readonly version?: string
  /** Called after each turn of the loop that reached the database. Must not throw. */
  readonly onTurn?: (turn: Turn) => void
}

/** A running scheduler. */
export interface Scheduler {
  /** Its id in leasehold.schedulers. */
  readonly id: string
  /** Since when the loop has not come round, apart from its regular wait: a watchdog's question. */
  overdueMs(): number
  /** Ends the loop after its turn, at most 5 s later, and says goodbye. Idempotent, never rejects. */
  stop(): Promise<void>
}

/** Others hold what is due: a moment later it is theirs or ours. */
const contendedMs = 200
const queryTimeoutMs = 30_000
const namesInLog = 10

/** Starts a scheduler; it goes on whether or not the database can be reached. Throws {@link ConfigError}. */
export function startScheduler(options: SchedulerOptions): Scheduler {
  if (!(options.pollMs >= 100 && options.pollMs <= 30_000))
    throw new ConfigError([{ name: 'pollMs', problem: 'must be 100 to 30000 milliseconds' }])
  return new RunningScheduler(options)
}

class RunningScheduler implements Scheduler {
  readonly id: string = randomUUID()
  private readonly options: SchedulerOptions
  private readonly introduction: SchedulerIntroduction
  private readonly pool: ReturnType<typeof openPool>
  private readonly outage = new OutageLog()
  private readonly stopping = new AbortController()
  private readonly looping: Promise<void>
  private dueAt = performance.now()
  private stopped: Promise<void> | null = null

  constructor(options: SchedulerOptions) {
    const { connectionString, pollMs, version = 'unknown' } = options
    this.options = options
    this.introduction = { id: this.id, host: hostname(), pid: process.pid, version, pollMs }
    this.pool = openPool({
      connectionString,
      applicationName: 'leasehold scheduler',
      max: 2,
      connectTimeoutMs: 5_000,
      queryTimeoutMs,
    })
    this.looping = this.loop()
  }

  overdueMs(): number {
    return Math.max(0, performance.now() - this.dueAt)
  }

  stop(): Promise<void> {
    this.stopped ??= this.shutDown()
    return this.stopped
  }

  private async loop(): Promise<void> {
    const { signal } = this.stopping
    while (!signal.aborted) {
      const waitMs = await this.turn()
      this.dueAt = performance.now() + waitMs
      await sleep(waitMs, signal)
    }
  }

  /** One turn; answers how long to sleep after it. */
  private async turn(): Promise<number> {
    const { log, onTurn, pollMs } = this.options
    try {
      const turn = await tick(this.pool, this.introduction)
      const failures = this.outage.recovered()
      if (failures > 0)
        log.info({ event: 'scheduler.recovered', failures }, 'the scheduler reaches its database again')
      this.tell(turn)
      onTurn?.(turn)
      if (turn.moved > 0) return 0
      return turn.due > 0 ? contendedMs : Math.max(1, Math.min(pollMs, turn.waitMs ?? pollMs))
    } catch (error) {
      if (this.outage.failed()) {
        const { code, message } = describeError(error)
        log.warn({ event: 'scheduler.turn_failed', code, reason: message }, 'a turn failed; trying again')
      }
      return Math.min(pollMs, retryDelayMs(this.outage.count))
    }
  }

  private tell({ carried, problems, held }: Turn): void {
    const { log } = this.options
    const recorded = carried.flatMap((one) => one.recorded)
    const fired = recorded.filter(({ outcome }) => outcome === 'fired')
    const skipped = recorded.filter(({ outcome }) => outcome === 'skipped')
    const named = (some: typeof recorded): string[] =>
      some
        .slice(0, namesInLog)
        .map(({ schedule, slot, task_id, reason }) => `${schedule} ${slot}: ${task_id ?? reason}`)
    if (fired.length > 0)
      log.info({ event: 'schedules.fired', fired: fired.length, first: named(fired) }, 'schedules fired')
    if (skipped.length > 0)
      log.warn({ event: 'schedules.skipped', rows: skipped.length, first: named(skipped) }, 'slots skipped')
    for (const { schedule, problem } of held.slice(0, namesInLog))
      log.warn({ event: 'schedule.held', schedule, reason: problem }, 'schedule put off')
    for (const { schedule, problem } of problems.slice(0, namesInLog))
      log.error({ event: 'schedule.problem', schedule, problem }, 'schedule cannot fire')
  }

  private async shutDown(): Promise<void> {
    this.stopping.abort()
    await within(5_000, this.looping)
    await within(2_000, schedulerLeave(this.pool, this.id))
    await within(1_000, this.pool.end())
  }
}
