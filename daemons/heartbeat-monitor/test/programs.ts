/**
 * An installation of real processes on one database: monitors, runners that hold a task until they are told to go on, and
 * what only the database knows of them: how often a monitor has ticked, how a task's leases ended.
 *
 * Invariant: nothing here waits for a length of time; all waiting is for a row or a line. What is left running ends with the
 * file (test/harness/processes.ts). Monitors that a test ticks itself are watching.ts.
 */
import { expect } from 'vitest'
import type { TestDatabase } from '../../../test/harness/database.ts'
import { type TestProcess, spawnProcess } from '../../../test/harness/processes.ts'
import type { MailServer } from './mail-server.ts'

/** The lease of a runner that is to die: ten beats, so that it does not die of a machine that is busy for a moment. */
export const shortTtlMs = 5_000
/** The monitors' interval. */
export const intervalS = 1
/** The lease of a runner that is to live to the end. */
export const longTtlMs = 60_000

/** Makes the table into which the runners' handlers write their effects. */
export async function addEffects(db: TestDatabase): Promise<void> {
  await db.pool.query(
    'create table public.effects (task_id bigint not null, fence bigint not null, pid integer not null)',
  )
}

/** A monitor's process, and its id in leasehold.monitors. */
export interface MonitorProcess {
  readonly process: TestProcess
  readonly id: string
}

/** `leasehold monitor` with mail, looking every `intervalS`; answers when it has started. */
export async function monitor(db: TestDatabase, mail: Pick<MailServer, 'port'>): Promise<MonitorProcess> {
  const started = spawnProcess({
    script: 'packages/cli/bin/leasehold.mjs',
    args: ['monitor'],
    env: {
      DATABASE_URL: db.url,
      HEARTBEAT_MONITOR_INTERVAL: String(intervalS),
      HEARTBEAT_MONITOR_ALERT_EMAIL: 'ops@shop.example',
      SMTP_HOST: '127.0.0.1',
      SMTP_PORT: String(mail.port),
      EMAIL_FROM: 'alerts@shop.example',
    },
  })
  const line = await started.waitForLine(/"event":"monitor.started"/)
  return { process: started, id: (JSON.parse(line) as { monitorId: string }).monitorId }
}

/** A runner of the stage `held` in this slot; answers when it has its slot. */
export async function runner(
  db: TestDatabase,
  slot: string,
  ttlMs: number = shortTtlMs,
): Promise<TestProcess> {
  const module = './packages/runner/test/fixtures/stages.ts'
  const started = spawnProcess({
    script: 'daemons/runner/src/main.ts',
    args: ['--module', module, '--stage', 'held', '--slot', slot],
    env: {
      DATABASE_URL: db.url,
      LEASEHOLD_LEASE_TTL_MS: String(ttlMs),
      LEASEHOLD_BEAT_INTERVAL_MS: '500',
      LEASEHOLD_POLL_MS: '200',
    },
  })
  await started.waitForLine(/"event":"slot.taken"/)
  return started
}

/** Waits until the runner's handler has begun with the task. */
export async function entered(runner: TestProcess, task: string): Promise<void> {
  await runner.waitForLine(new RegExp(`^entered held ${task} \\d+$`))
}

/** Ends a process as a machine does that runs out of memory. */
export async function kill9(victim: TestProcess): Promise<void> {
  victim.kill('SIGKILL')
  expect(await victim.exit).toEqual({ code: null, signal: 'SIGKILL' })
}

/** Waits until each of these monitors was seen to tick `times` times from now on. */
export async function moreTicks(
  db: TestDatabase,
  monitors: readonly MonitorProcess[],
  times: number,
): Promise<void> {
  const seen = new Map(monitors.map(({ id }) => [id, new Set<string>()]))
  const look = async (): Promise<number> => {
    const { rows } = await db.pool.query<{ id: string; at: string }>(
      'select id::text, ticked_at::text as at from leasehold.monitors where id = any ($1)',
      [[...seen.keys()]],
    )
    for (const { id, at } of rows) seen.get(id)!.add(at)
    return Math.min(...[...seen.values()].map(({ size }) => size))
  }
  // The first moment that is seen is that of a tick before.
  await expect.poll(look).toBeGreaterThan(times)
}

/** How the leases of a task have ended, the oldest first: `held@1 lost`. */
export async function endsOf(db: TestDatabase, task: string): Promise<string[]> {
  const { rows } = await db.pool.query<{ what: string }>(
    `select w.slot || ' ' || a.outcome as what from leasehold.attempts a join leasehold.workers w on w.id = a.worker_id
    where a.task_id = $1 order by a.fence`,
    [task],
  )
  return rows.map(({ what }) => what)
}
