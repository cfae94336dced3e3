/**
 * What a runner is started with, and the rules between the settings. Libraries read no environment: main.ts does.
 */
import { ConfigError, type ConfigProblem, type Stage } from '@leasehold/queue'

/** The part of a pino logger that the runner uses: facts first, then a constant message. */
export interface RunnerLog {
  debug(facts: object, message: string): void
  info(facts: object, message: string): void
  warn(facts: object, message: string): void
  error(facts: object, message: string): void
}

// oxlint-disable-next-line typescript/no-explicit-any -- stages of any payload run side by side
export type AnyStage = Stage<any, any>

/** Settings of one runner; all but the first four have defaults made for production. */
export interface RunnerOptions {
  readonly connectionString: string
  readonly stages: readonly AnyStage[]
  /** The stable name of this place of work, e.g. `company_research@2`. Starting it again takes over what it held. */
  readonly slot: string
  readonly log: RunnerLog
  /** Tasks at once over all stages, and of each stage that does not say; default: the sum of the stages' own. */
  readonly concurrency?: number
  /** How long leases outlive the last beat; default 90 s. */
  readonly leaseTtlMs?: number
  /** At most a third of the TTL; default 30 s. */
  readonly beatIntervalMs?: number
  /** The same while tasks run, at most the interval of an idle worker; default: as often. */
  readonly workingBeatIntervalMs?: number
  /** The longest idle wait between looks; default 2 s. */
  readonly maxPollMs?: number
  /** The longest pause between tries while the database is away and nothing is held; default 5 s. */
  readonly maxRetryMs?: number
  /** How long a drain waits for what runs; default 30 s. */
  readonly drainTimeoutMs?: number
  /** A main loop that stands still for so long stops renewing its leases; default 60 s. */
  readonly wedgeLimitMs?: number
  /** How long a handler whose attempt was ended keeps its place when it does not come back; default 5 s. */
  readonly abortGraceMs?: number
  /** Work only on tasks of this run. */
  readonly runFilterId?: string
  /** Whether to LISTEN for submissions; off behind a pooler in transaction mode. Default true. */
  readonly listen?: boolean
  /** After how long without a monitor's tick this runner releases dead workers itself; default 3 min. */
  readonly monitorSilentAfterMs?: number
  /** Connections for handlers (ctx.db, ctx.transaction); default: concurrency, at most 10. */
  readonly handlerConnections?: number
  /** Shown in worker_health. */
  readonly version?: string
  /** The newest migration that the program knows: shown too, and refused where the database needs a newer program. */
  readonly schemaVersion?: string
  /** Called once per turn of the main loop, for a watchdog; at least four times in `wedgeLimitMs`. */
  readonly onTurn?: () => void
  /** Called when a beat of the heartbeat thread was acknowledged; the first one comes right after the start. */
  readonly onBeat?: () => void
  /** Called when it begins to drain, whoever asked for it. */
  readonly onDrain?: () => void
}

/** The options with every default filled in. */
export type Settings = Required<
  Omit<RunnerOptions, 'runFilterId' | 'schemaVersion' | 'onTurn' | 'onBeat' | 'onDrain'>
> &
  Pick<RunnerOptions, 'runFilterId' | 'schemaVersion' | 'onTurn' | 'onBeat' | 'onDrain'> & {
    /** Tasks at once of a stage that does not say. */
    readonly stageConcurrency: number
  }

/** Fills in defaults and checks the rules between settings. Throws {@link ConfigError} with all problems at once. */
export function fillIn(options: RunnerOptions): Settings {
  const beatIntervalMs =
    options.beatIntervalMs ?? Math.min(30_000, Math.floor((options.leaseTtlMs ?? 90_000) / 3))
  const concurrency = options.concurrency ?? options.stages.reduce((sum, s) => sum + (s.concurrency ?? 1), 0)
  const settings: Settings = {
    leaseTtlMs: 90_000,
    beatIntervalMs,
    workingBeatIntervalMs: beatIntervalMs,
    maxPollMs: 2000,
    maxRetryMs: 5000,
    drainTimeoutMs: 30_000,
    wedgeLimitMs: 60_000,
    abortGraceMs: 5000,
    listen: true,
    monitorSilentAfterMs: 180_000,
    handlerConnections: Math.max(1, Math.min(concurrency, 10)),
    version: '0.1.0',
    ...options,
    concurrency,
    stageConcurrency: options.concurrency ?? 1,
  }
  const problems: ConfigProblem[] = []
  const check = (ok: boolean, name: string, problem: string) => {
    if (!ok) problems.push({ name, problem })
  }
  check(settings.stages.length > 0, 'stages', 'at least one stage is needed')
  check(
    new Set(settings.stages.map((s) => s.name)).size === settings.stages.length,
    'stages',
    'a stage is named twice',
  )
  check(/^[!-~]{1,100}$/.test(settings.slot), 'slot', 'must be 1–100 printable characters without spaces')
  check(
    Number.isInteger(concurrency) && concurrency >= 1 && concurrency <= 100_000,
    'concurrency',
    'must be 1 to 100000',
  )
  check(
    settings.leaseTtlMs >= 300 && settings.leaseTtlMs <= 86_400_000,
    'leaseTtlMs',
    'must be 300 ms to 1 day',
  )
  check(
    settings.beatIntervalMs >= 50 && settings.beatIntervalMs * 3 <= settings.leaseTtlMs,
    'beatIntervalMs',
    `must be at least 50 ms and at most a third of leaseTtlMs (${settings.leaseTtlMs})`,
  )
  check(
    settings.workingBeatIntervalMs >= 50 && settings.workingBeatIntervalMs <= settings.beatIntervalMs,
    'workingBeatIntervalMs',
    `must be at least 50 ms and at most beatIntervalMs (${settings.beatIntervalMs})`,
  )
  check(settings.maxRetryMs >= 100 && settings.maxRetryMs <= 300_000, 'maxRetryMs', 'must be 100 ms to 5 min')
  check(settings.maxPollMs >= 10 && settings.maxPollMs <= 60_000, 'maxPollMs', 'must be 10 ms to 1 min')
  check(settings.drainTimeoutMs >= 0, 'drainTimeoutMs', 'must not be negative')
  check(settings.wedgeLimitMs >= 500, 'wedgeLimitMs', 'must be at least 500 ms')
  check(settings.abortGraceMs >= 0 && settings.abortGraceMs <= 600_000, 'abortGraceMs', 'must be 0 to 10 min')
  check(
    Number.isInteger(settings.handlerConnections) &&
      settings.handlerConnections >= 1 &&
      settings.handlerConnections <= 1000,
    'handlerConnections',
    'must be 1 to 1000',
  )
  if (problems.length > 0) throw new ConfigError(problems)
  return settings
}
