/**
 * graphile-worker inside this process: delivery of alerts with retries, and the housekeeping crontab.
 *
 * Invariant: it is never in the way of a look (own pool, own loop), any number of monitors may run it side by side, and
 * when it gives up (it does when it cannot record a job's end) or cannot start, it is started again. It installs no
 * signal handlers. What the jobs do is outbox.ts and housekeeping.ts.
 */
import { OutageLog, openPool, retryDelayMs, sleep, within } from '@leasehold/postgres'
import { describeError, registerDuties } from '@leasehold/queue'
import {
  Logger,
  type Runner,
  type RunnerOptions,
  type TaskList,
  parseCronItems,
  run,
  runMigrations,
} from 'graphile-worker'
import type { Channel } from './channels/channel.ts'
import { dutyJobs } from './housekeeping.ts'
import type { Log } from './log.ts'
import { type RetryPace, deliver, deliveryJob, recoverDelivery } from './outbox.ts'
import { oneLine } from './plain-text.ts'

const schema = 'graphile_worker'
/** How long a stop waits for jobs; graphile-worker aborts them after 5 s (an alert is then tried again later). */
const stopWithinMs = 10_000
/** Reading through the history of a range before it goes, or a vacuum, may take minutes. */
const longestDutyMs = 600_000

/** What the jobs work with. */
export interface SideJobDeps {
  readonly connectionString: string
  /** Alerts for other channels stay for a process that has them. */
  readonly channels: readonly Channel[]
  readonly pace: RetryPace
  readonly log: Log
}

/** Runs graphile-worker until it is stopped. */
export class SideJobs {
  /** Its schema is there and its workers run: jobs can be made. */
  ready = false
  private readonly deps: SideJobDeps
  /** One for each channel and each duty: neither what hangs nor what takes minutes holds up an alert. */
  private readonly concurrency: number
  private readonly pool: ReturnType<typeof openPool>
  private readonly dutyPool: ReturnType<typeof openPool>
  private readonly stopped = new AbortController()
  private readonly errors = new OutageLog()
  private restart = new AbortController()
  private readonly done: Promise<void>

  constructor(deps: SideJobDeps) {
    this.deps = deps
    this.concurrency = deps.channels.length + dutyJobs.length
    this.pool = openPool({
      connectionString: deps.connectionString,
      applicationName: 'leasehold monitor jobs',
      // One listens, one schedules, the others look for jobs and do them.
      max: this.concurrency + 4,
      connectTimeoutMs: 5_000,
      queryTimeoutMs: 60_000,
    })
    this.dutyPool = openPool({
      connectionString: deps.connectionString,
      applicationName: 'leasehold monitor housekeeping',
      max: dutyJobs.length,
      connectTimeoutMs: 5_000,
      queryTimeoutMs: longestDutyMs,
    })
    this.done = this.keepRunning()
  }

  /**
   * Starts anew. After an outage: graphile-worker may otherwise sleep for two minutes before it asks again. And when this
   * machine's clock was set back: its crontab waits for the minute it had reached.
   */
  refresh(): void {
    this.restart.abort()
  }

  /** Lets jobs end, aborts those which do not, closes the connections. Never rejects. */
  async stop(): Promise<void> {
    this.stopped.abort()
    await within(stopWithinMs + 1_000, this.done)
    await within(1_000, Promise.all([this.pool.end(), this.dutyPool.end()]))
  }

  private async keepRunning(): Promise<void> {
    const failures = new OutageLog()
    while (!this.stopped.signal.aborted) {
      this.restart = new AbortController()
      try {
        await this.runOnce(() => failures.recovered())
      } catch (error) {
        if (failures.failed()) {
          const facts = { event: 'side_jobs.failed', reason: describeError(error).message }
          this.deps.log.warn(facts, 'side jobs do not run; starting them again')
        }
      }
      if (failures.count > 0) await sleep(retryDelayMs(failures.count), this.stopped.signal)
    }
  }

  /** From start to end; throws when the end was not asked for. */
  private async runOnce(started: () => void): Promise<void> {
    const options = this.options()
    await migrate(this.pool, options)
    await registerDuties(this.pool)
    await forgetFutureTurns(this.pool)
    const runner = await run(options)
    // Ends that nobody asked for arrive here; while this is awaited below nothing is left unhandled.
    const ended = runner.promise.then(
      () => ({ error: new Error('graphile-worker ended by itself') }),
      (error: unknown) => ({ error }),
    )
    try {
      // Ready first: an alert written from here on has its job made by the look that wrote it.
      this.ready = true
      await recoverDelivery(this.pool, 0)
      started()
      const asked = sleep(2 ** 31 - 1, AbortSignal.any([this.stopped.signal, this.restart.signal]))
      const end = await Promise.race([ended, asked])
      if (end !== undefined) throw end.error
    } finally {
      this.ready = false
      await stopRunner(runner)
    }
  }

  private options(): RunnerOptions {
    return {
      pgPool: this.pool,
      schema,
      noHandleSignals: true,
      // Named statements fail behind a pooler in transaction mode.
      noPreparedStatements: true,
      concurrency: this.concurrency,
      pollInterval: 2_000,
      taskList: this.tasks(),
      parsedCronItems: parseCronItems(
        dutyJobs.map(({ name, crontab }) => ({
          task: name,
          match: crontab,
          identifier: name,
          options: { jobKey: name, maxAttempts: 1 },
        })),
      ),
      logger: new Logger(() => (level, message) => this.hear(level, message)),
      // Without batching it leaves the promise of recording a job's end alone: a lost connection would end the process.
      preset: { worker: { completeJobBatchDelay: 0, failJobBatchDelay: 0 } },
    }
  }

  private tasks(): TaskList {
    const { channels, pace, log } = this.deps
    const tasks: TaskList = Object.fromEntries(
      dutyJobs.map((duty) => [duty.name, () => duty.run(this.dutyPool, log)]),
    )
    // A process without a channel must not take its jobs from one that has it.
    for (const channel of channels) {
      tasks[deliveryJob(channel.name)] = (_payload, helpers) =>
        deliver(this.pool, channel, pace, log, helpers.abortSignal)
    }
    return tasks
  }

  private hear(level: string, message: string): void {
    if ((level !== 'error' && level !== 'warning') || !this.errors.failed()) return
    this.deps.log.warn(
      { event: 'side_jobs.report', reason: oneLine(message, 500) },
      'side jobs report trouble',
    )
  }
}

/** Brings graphile-worker's own schema up to date, one process at a time: its first steps may collide. */
async function migrate(pool: ReturnType<typeof openPool>, options: RunnerOptions): Promise<void> {
  const turn = await pool.connect()
  let broken: boolean | undefined
  try {
    await turn.query('begin')
    await turn.query("select pg_advisory_xact_lock(hashtextextended('leasehold graphile_worker schema', 0))")
    await runMigrations(options)
    await turn.query('commit')
  } catch (error) {
    broken = true
    throw error
  } finally {
    turn.release(broken)
  }
}

/**
 * A turn that a crontab noted in the future, by a clock that was ahead, would keep the duty from every turn until then. A
 * minute's difference between this machine and the database is none.
 */
async function forgetFutureTurns(pool: ReturnType<typeof openPool>): Promise<void> {
  await pool.query(
    `update ${schema}._private_known_crontabs set last_execution = null
    where identifier = any ($1) and last_execution > clock_timestamp() + interval '2 minutes'`,
    [dutyJobs.map(({ name }) => name)],
  )
}

/** It may have ended by itself, or wait for a database that is away: neither may hold us up. */
async function stopRunner(runner: Runner): Promise<void> {
  await within(stopWithinMs, runner.stop())
}
