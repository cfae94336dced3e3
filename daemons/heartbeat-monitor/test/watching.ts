/**
 * What the monitor's tests share: workers that live as rows, and monitors that are stopped when the test is over.
 *
 * Time is the test database's and moves by `advance` only; a worker that does not beat dies by that.
 */
import { once } from 'node:events'
import { EventEmitter } from 'node:events'
import { runMigrations } from 'graphile-worker'
import { onTestFinished } from 'vitest'
import type { TestDatabase } from '../../../test/harness/database.ts'
import { type Look, type Monitor, type MonitorOptions, startMonitor } from '../src/index.ts'
import type { Log } from '../src/log.ts'
import type { MailServer } from './mail-server.ts'

/** A worker's TTL in these tests, in milliseconds. */
export const ttlMs = 90_000

/** Everything a monitor logged, and a way to wait for more. */
export class Lines {
  readonly all: { level: string; facts: Record<string, unknown>; message: string }[] = []
  private readonly events = new EventEmitter()

  write(level: string, facts: object, message: string): void {
    this.all.push({ level, facts: { ...facts }, message })
    this.events.emit('line')
  }

  /** The events by name, in order. */
  named(event: string): Record<string, unknown>[] {
    return this.all.filter(({ facts }) => facts['event'] === event).map(({ facts }) => facts)
  }

  /** Resolves when `n` lines of this event were written. */
  async wait(event: string, n = 1): Promise<void> {
    while (this.named(event).length < n) await once(this.events, 'line')
  }
}

/** A log that is kept. */
export function logOf(lines: Lines): Log {
  const write = (level: string) => (facts: object, message: string) => lines.write(level, facts, message)
  return { info: write('info'), warn: write('warn'), error: write('error') }
}

/** Lifts every limit of the policy: what is found is told in the look that finds it. */
export async function tellAtOnce(db: TestDatabase): Promise<void> {
  await db.pool.query(`select leasehold.set_alert_policy('{"per_day": 1000, "reserve": 0, "gap": "0"}')`)
}

/**
 * A monitor whose loop looked once, when it started, and then only when the test ticks. It tells all at once; `policy`
 * leaves the policy as it is.
 */
export async function watch(
  db: TestDatabase,
  mail: MailServer | null,
  given: Partial<MonitorOptions> & { readonly policy?: 'as it is' } = {},
): Promise<Monitor & { readonly lines: Lines }> {
  const { policy, ...options } = given
  if (policy === undefined) await tellAtOnce(db)
  const lines = new Lines()
  const first = Promise.withResolvers<Look>()
  const monitor = await startMonitor({
    connectionString: db.url,
    intervalMs: 3_600_000,
    wedgeLimitMs: 60_000,
    lonelyAfterMs: 60_000,
    smtp: mail && {
      host: '127.0.0.1',
      port: mail.port,
      login: null,
      from: 'Leasehold <alerts@shop.example>',
      to: ['ops@shop.example'],
    },
    log: logOf(lines),
    mailRetry: { firstMs: 20, maxMs: 50 },
    onTick: first.resolve,
    ...options,
  })
  onTestFinished(() => monitor.stop())
  if (options.onTick === undefined) await first.promise
  const tick = monitor.tick.bind(monitor)
  return Object.assign(monitor, { lines, tick: async () => apartFromItself(await tick(), mail) })
}

/**
 * When the clock leaps, the monitor's quiet duties are late as well, and where no mail server is given nobody takes what is
 * written; that is not what these tests are about.
 */
function apartFromItself(found: Look, mail: MailServer | null): Look {
  const isAside = ({ kind, subject }: Look['opened'][number]): boolean =>
    kind === 'housekeeping_overdue' || (kind === 'channel_down' && subject === 'email' && mail === null)
  return {
    ...found,
    opened: found.opened.filter((incident) => !isAside(incident)),
    resolved: found.resolved.filter((incident) => !isAside(incident)),
  }
}

/**
 * From now on the crontab makes no jobs, which it would do at each turn of a minute by the real clock: for tests in which
 * jobs are counted, or cannot be made. To be called before a monitor runs.
 */
export async function keepCrontabStill(db: TestDatabase): Promise<void> {
  await runMigrations({ connectionString: db.url })
  // A job is made by whoever notes the turn first; here nobody can note one.
  await db.pool.query(`create function public.keep_still() returns trigger language plpgsql as
      $$ begin return null; end $$;
    create trigger keep_still before update on graphile_worker._private_known_crontabs
      for each row execute function public.keep_still()`)
}

/** Makes stages with the settings given, or their defaults. */
export async function stage(
  db: TestDatabase,
  name: string,
  settings: { expected?: number } = {},
): Promise<void> {
  await db.pool.query('select leasehold.register_stage($1, p_expected_workers => $2)', [
    name,
    settings.expected,
  ])
}

/** Starts a worker; answers its id. */
export async function work(
  db: TestDatabase,
  slot: string,
  stages: readonly string[],
  facts: { host?: string; ttl?: number } = {},
): Promise<string> {
  const ttl = facts.ttl ?? ttlMs
  const { rows } = await db.pool.query<{ id: string }>(
    `select worker_id as id from leasehold.register_worker($1, $2, $3 * interval '1 millisecond',
      $4 * interval '1 millisecond', $5, 4711)`,
    [slot, stages, ttl, ttl / 3, facts.host ?? 'crane.example'],
  )
  return rows[0]!.id
}

/** One beat of these workers. */
export async function beat(db: TestDatabase, ...workers: string[]): Promise<void> {
  for (const worker of workers) await db.pool.query('select leasehold.heartbeat($1)', [worker])
}

/** Submits a task; answers its id. */
export async function submit(db: TestDatabase, stage: string, title: string | null = null): Promise<string> {
  const { rows } = await db.pool.query<{ id: string }>(
    'insert into leasehold.tasks (stage, title) values ($1, $2) returning id::text',
    [stage, title],
  )
  return rows[0]!.id
}

/** Claims up to `n` tasks; answers their ids. */
export async function claim(db: TestDatabase, worker: string, stage: string, n = 1): Promise<string[]> {
  const { rows } = await db.pool.query<{ task_id: string }>(
    'select task_id::text from leasehold.claim($1, $2, $3)',
    [worker, stage, n],
  )
  return rows.map((row) => row.task_id)
}

/** All alerts written so far, in order. */
export async function alerts(
  db: TestDatabase,
): Promise<{ subject: string; body: string; sent: boolean; tries: number; last_error: string | null }[]> {
  const { rows } = await db.pool.query(
    'select subject, body, sent_at is not null as sent, tries, last_error from leasehold.alerts order by id',
  )
  return rows
}

/** The state of a task, as anybody sees it. */
export async function stateOf(db: TestDatabase, task: string): Promise<string> {
  const { rows } = await db.pool.query<{ state: string }>(
    'select state from leasehold.task_status where task_id = $1',
    [task],
  )
  return rows[0]!.state
}
