/**
 * What the runner's tests share: a database with a table of effects, daemons as real processes, runners in this process,
 * and looking at what became of tasks.
 *
 * Invariant: no test depends on how fast the machine is. Beats are frequent, leases long, and time passes by moving the
 * database's clock between beats (passTime); nothing here sleeps for a fixed time.
 */
import { type Db, getTask, type TaskStatus } from '@leasehold/queue'
import { type Runner, type RunnerOptions, startRunner } from '@leasehold/runner'
import { createTestDatabase, type TestDatabase } from '../../../test/harness/database.ts'
import { spawnProcess, type TestProcess } from '../../../test/harness/processes.ts'
import { expect } from 'vitest'

export const ttlMs = 30_000
export const beatMs = 300

/** What handlers write in their settling transactions. */
export const effectsTable = `create table public.effects (task_id bigint not null, fence bigint not null,
  pid integer not null, at timestamptz not null default clock_timestamp())`

/** A clone of the template with public.effects. */
export async function createScene(): Promise<TestDatabase> {
  const db = await createTestDatabase()
  await db.pool.query(effectsTable)
  return db
}

/** Starts the runner daemon on the fixture stages; resolves when it holds its slot. */
export async function startDaemon(
  url: string,
  options: { stages: readonly string[]; slot: string; env?: Record<string, string>; concurrency?: number },
): Promise<TestProcess> {
  const daemon = spawnDaemon(url, options)
  await daemon.waitForLine(/"event":"slot.taken"/)
  return daemon
}

/** Starts the runner daemon and does not wait for anything. */
export function spawnDaemon(
  url: string,
  options: { stages: readonly string[]; slot: string; env?: Record<string, string>; concurrency?: number },
): TestProcess {
  return spawnProcess({
    script: 'daemons/runner/src/main.ts',
    args: [
      '--module',
      './packages/runner/test/fixtures/stages.ts',
      '--slot',
      options.slot,
      ...options.stages.flatMap((stage) => ['--stage', stage]),
      ...(options.concurrency === undefined ? [] : ['--concurrency', String(options.concurrency)]),
    ],
    env: {
      DATABASE_URL: url,
      LEASEHOLD_LEASE_TTL_MS: String(ttlMs),
      LEASEHOLD_BEAT_INTERVAL_MS: String(beatMs),
      LEASEHOLD_POLL_MS: '500',
      ...options.env,
    },
  })
}

/** A log that remembers. */
export class RememberingLog {
  readonly lines: { level: string; facts: Record<string, unknown>; message: string }[] = []
  private readonly watchers = new Set<() => void>()
  debug: (facts: object, message: string) => void = this.at('debug')
  info: (facts: object, message: string) => void = this.at('info')
  warn: (facts: object, message: string) => void = this.at('warn')
  error: (facts: object, message: string) => void = this.at('error')

  private at(level: string): (facts: object, message: string) => void {
    return (facts, message) => {
      this.lines.push({ level, facts: facts as Record<string, unknown>, message })
      for (const look of this.watchers) look()
    }
  }

  of(event: string): Record<string, unknown>[] {
    return this.lines.filter((line) => line.facts['event'] === event).map((line) => line.facts)
  }

  /** Resolves with the facts of the first line of that event, said before or later. */
  async first(event: string): Promise<Record<string, unknown>> {
    return new Promise((resolve) => {
      const look = (): void => {
        const found = this.of(event)[0]
        if (found === undefined) return
        this.watchers.delete(look)
        resolve(found)
      }
      this.watchers.add(look)
      look()
    })
  }
}

/** A runner in this process, with short leases and a log that remembers. */
export async function startTestRunner(
  db: TestDatabase,
  options: Partial<RunnerOptions> & Pick<RunnerOptions, 'stages'>,
): Promise<Runner & { log: RememberingLog }> {
  const log = new RememberingLog()
  const runner = await startRunner({
    connectionString: db.url,
    slot: `${options.stages[0]!.name}@test`,
    leaseTtlMs: ttlMs,
    beatIntervalMs: beatMs,
    maxPollMs: 500,
    drainTimeoutMs: 2000,
    log,
    ...options,
  })
  return Object.assign(runner, { log })
}

/** Submits as any program may: by plain SQL. Answers with the ids. */
export async function insertTasks(db: Db, stage: string, payloads: unknown[]): Promise<string[]> {
  const { rows } = await db.query<{ id: string }>(
    `insert into leasehold.tasks (stage, payload) select $1, value from jsonb_array_elements($2::jsonb) with ordinality
     as p(value, nr) order by nr returning id::text`,
    [stage, JSON.stringify(payloads)],
  )
  return rows.map((row) => row.id)
}

/** Asks again and again until the answer is there. */
export async function eventually<T>(
  what: () => Promise<T | null | undefined | false>,
  withinMs = 45_000,
): Promise<T> {
  const until = performance.now() + withinMs
  for (;;) {
    const answer = await what()
    if (answer !== null && answer !== undefined && answer !== false) return answer
    if (performance.now() > until) throw new Error(`not within ${withinMs} ms: ${what.toString()}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

const ended = new Set(['done', 'dead', 'cancelled'])

/** The task once it has ended. */
export function endOf(db: Db, id: string, withinMs?: number): Promise<TaskStatus> {
  return eventually(async () => {
    const task = await getTask(db, id)
    return task !== null && ended.has(task.state) && task
  }, withinMs)
}

/** All of them once they have ended, in the same order. */
export async function endsOf(db: Db, ids: readonly string[], withinMs = 45_000): Promise<TaskStatus[]> {
  await eventually(async () => {
    const { rows } = await db.query<{ open: boolean }>(
      'select exists (select from unnest($1::bigint[]) id where leasehold.final_outcome(id) is null) as open',
      [ids],
    )
    return !rows[0]!.open
  }, withinMs)
  const found = await Promise.all(ids.map((id) => getTask(db, id)))
  return found.map((task) => task!)
}

/** How the attempts of a task ended, in order. */
export async function attemptsOf(
  db: Db,
  id: string,
): Promise<
  { outcome: string; attempt: number; final: boolean; error: { code?: string; message?: string } | null }[]
> {
  const { rows } = await db.query<{
    outcome: string
    attempt: number
    final: boolean
    error: { code?: string; message?: string } | null
  }>('select outcome, attempt, final, error from leasehold.attempts where task_id = $1 order by fence', [id])
  return rows
}

/** The tasks that wrote other than exactly one effect, and each one's number; all of `ids` are looked at. */
export async function wrongEffects(db: Db, ids: readonly string[]): Promise<unknown[]> {
  const { rows } = await db.query(
    `select id::text, count(e.task_id)::integer as effects from unnest($1::bigint[]) id left join public.effects e on e.task_id = id
     group by id having count(e.task_id) <> 1`,
    [ids],
  )
  return rows
}

/** Nothing is broken: the standing views say so, and nobody holds a lease. */
export async function expectSound(db: Db): Promise<void> {
  const violations = await db.query('select * from leasehold.invariant_violations')
  expect(violations.rows).toEqual([])
  const audited = await db.query('select * from leasehold.audit()')
  expect(audited.rows).toEqual([])
}

/**
 * Lets so much of the database's time pass, in steps that are shorter than a lease, with a beat of each of these slots
 * after each step. Whoever beats stays alive, whoever does not runs out.
 */
export async function passTime(db: TestDatabase, ms: number, beating: readonly string[]): Promise<void> {
  for (let left = ms; left > 0; left -= ttlMs / 2) {
    await db.advance(Math.min(left, ttlMs / 2))
    const { rows } = await db.pool.query<{ now: Date }>('select leasehold.clock() as now')
    await eventually(async () => {
      const beats = await db.pool.query<{ n: number }>(
        `select count(distinct slot)::integer as n from leasehold.workers
         where ended_at is null and slot = any ($1) and beat_at > $2`,
        [beating, rows[0]!.now],
      )
      return beats.rows[0]!.n === beating.length
    })
  }
}

/** How many leases there are. */
export async function leaseCount(db: Db): Promise<number> {
  const { rows } = await db.query<{ n: number }>('select count(*)::integer as n from leasehold.leases')
  return rows[0]!.n
}
