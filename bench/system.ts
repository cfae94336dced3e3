/**
 * What a work queue has to do to be measured: install, take tasks, work on them, and say what has durably ended.
 *
 * One adapter per system implements it with the system's public functions and its documented fast settings. Whatever the
 * measuring itself needs (counting handlers, checking that none ran twice, clocks) is done outside, alike for all.
 */

/** The payload, about 160 bytes of JSON in every system. */
export interface BenchTask {
  /** 0, 1, 2 …; each number is submitted once, so a task that ran twice or never can be named. */
  readonly n: number
  /** When it should have been sent, by the machine's monotonic clock in µs; 0 when nobody measures latency. */
  readonly due: number
  /** How long the handler waits; -1: until the run releases it. */
  readonly ms: number
  /** The handler throws. Such a task has a single attempt. */
  readonly fail: boolean
  readonly pad: string
}

/** A task with the settings that only some workloads use. */
export interface Submission {
  readonly payload: BenchTask
  /** 0 to 3, higher first. */
  readonly priority?: number
  readonly delayMs?: number
  /** Unique among unfinished tasks. */
  readonly key?: string
}

/** How one worker is started: `concurrency` handlers at once under a name of its own. */
export interface WorkOptions {
  readonly concurrency: number
  readonly slot: string
  /** Rejects when the task shall fail. */
  readonly run: (task: BenchTask) => Promise<void>
}

/** A started worker. */
export interface Working {
  stop(): Promise<void>
}

/** A system on one database. */
export interface System {
  install(): Promise<void>
  /** Resolves when all of them are durably submitted. Called with one task or with up to `batch`. */
  submit(tasks: readonly Submission[]): Promise<void>
  /** Resolves when it has begun to take tasks. */
  work(options: WorkOptions): Promise<Working>
  /** Whether any task has not durably ended yet. Cheap: it is asked again and again at the end of a run. */
  unfinished(): Promise<boolean>
  /** Durably ended tasks as the database knows them; null for a system that deletes them and keeps no count. */
  ended(): Promise<number | null>
  close(): Promise<void>
}

/** What an adapter exports. */
export interface Adapter {
  open(url: string, variant: string | null): Promise<System>
  /** Tasks per `submit` from which more gains nothing. */
  readonly batch: number
  /** `like` pattern of the statement that claims, for pg_stat_statements. */
  readonly claimStatement: string
}

/** Microseconds of the machine's monotonic clock: the same in every process of this machine. */
export function nowMicros(): number {
  return Number(process.hrtime.bigint() / 1000n)
}

const pad = 'x'.repeat(100)

/** A plain task. */
export function benchTask(n: number, more: Partial<BenchTask> = {}): BenchTask {
  return { n, due: 0, ms: 0, fail: false, pad, ...more }
}

/** Makes something when it is first asked for, and the same one from then on. */
export function lazily<T>(make: () => T): (() => T) & { readonly made: () => boolean } {
  const kept: T[] = []
  const get = (): T => {
    if (kept.length === 0) kept.push(make())
    return kept[0]!
  }
  return Object.assign(get, { made: () => kept.length > 0 })
}
