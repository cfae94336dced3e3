/**
 * A whole installation on one address, from its migration to a mail: what every kind of database and connection must bear.
 *
 * Real processes and the real clock: a runner is killed while it holds a task, the monitor releases it and mails, another
 * runner finishes it. Answers when all of that was seen.
 */
import { migrate, openPool } from '@leasehold/postgres'
import { getTask, submit, submitMany, waitForResult } from '@leasehold/queue'
import { expect } from 'vitest'
import { type TestProcess, spawnProcess } from '../../../test/harness/processes.ts'
import { MailServer } from './mail-server.ts'

const held = `create table public.effects (task_id bigint not null, fence bigint not null, pid integer not null)`

/** Runs it; `admin` leads to the same database without any obstacle. */
export async function liveAndDie(url: string, admin: string): Promise<void> {
  const mail = await new MailServer().start()
  const pool = openPool({ connectionString: url, applicationName: 'scenario', max: 3 })
  const judge = openPool({ connectionString: admin, applicationName: 'judge', max: 1 })
  try {
    await migrate(url)
    await judge.query(held)
    // A short life, so that its death is noticed soon; the others are not to die on a slow machine.
    const first = runner(url, 'held@1', { LEASEHOLD_LEASE_TTL_MS: '5000' })
    await first.waitForLine(/"event":"slot.taken"/)
    const id = await submit(pool, 'held', { ms: 1 }, { key: 'only-one', runId: 'scenario' })
    await first.waitForLine(new RegExp(`^entered held ${id} 1$`))
    first.kill('SIGKILL')
    await first.exit

    const monitor = daemon('heartbeat-monitor', [], url, {
      HEARTBEAT_MONITOR_INTERVAL: '1',
      HEARTBEAT_MONITOR_ALERT_EMAIL: 'ops@shop.example',
      SMTP_HOST: '127.0.0.1',
      SMTP_PORT: String(mail.port),
      EMAIL_FROM: 'alerts@shop.example',
    })
    const { subject } = await mail.mail(1)
    expect(subject).toMatch(/1 worker died, 1 task released/)

    const second = runner(url, 'held@2')
    await second.waitForLine(new RegExp(`^entered held ${id} 1$`)) // a death does not count against its attempts
    second.kill('SIGUSR2')
    await waitForResult(pool, id, { timeoutMs: 60_000 })
    const task = await getTask(pool, id)
    expect(task).toMatchObject({ state: 'done', runId: 'scenario' })
    expect(Math.abs(Date.now() - task!.endedAt!.getTime())).toBeLessThan(3_600_000)
    const more = await submitMany(pool, 'held', [{ payload: {} }, { payload: {} }])
    for (const one of more) await waitForResult(pool, one, { timeoutMs: 60_000 })

    const status = daemon('cli', ['status', '--json'], url)
    expect(await status.exit).toEqual({ code: 0, signal: null })
    expect(status.output()).toContain('"held@2"')
    for (const process of [second, monitor]) {
      process.kill('SIGTERM')
      expect(await process.exit, process.output()).toEqual({ code: 0, signal: null })
      expect(process.output()).not.toMatch(/"level":"error"|side_jobs|database.away/)
    }
    const { rows } = await judge.query('select task_id::text as id from public.effects order by task_id')
    expect(rows).toEqual([id, ...more].map((one) => ({ id: one })))
    const attempts = await judge.query<{ outcome: string }>(
      'select outcome from leasehold.attempts where task_id = $1 order by fence',
      [id],
    )
    expect(attempts.rows.map(({ outcome }) => outcome)).toEqual(['lost', 'done'])
    expect((await judge.query('select * from leasehold.invariant_violations')).rows).toEqual([])
    expect((await judge.query('select * from leasehold.audit()')).rows).toEqual([])
  } finally {
    await Promise.all([pool.end(), judge.end(), mail.stop()])
  }
}

function runner(url: string, slot: string, env: Readonly<Record<string, string>> = {}): TestProcess {
  const module = './packages/runner/test/fixtures/stages.ts'
  return daemon('runner', ['--module', module, '--stage', 'held', '--slot', slot], url, env)
}

const programs = {
  runner: 'daemons/runner/src/main.ts',
  'heartbeat-monitor': 'daemons/heartbeat-monitor/src/main.ts',
  cli: 'packages/cli/src/main.ts',
}

function daemon(
  program: keyof typeof programs,
  args: readonly string[],
  url: string,
  env: Readonly<Record<string, string>> = {},
): TestProcess {
  return spawnProcess({
    script: programs[program],
    args,
    env: {
      DATABASE_URL: url,
      LEASEHOLD_LEASE_TTL_MS: '30000',
      LEASEHOLD_BEAT_INTERVAL_MS: '500',
      LEASEHOLD_POLL_MS: '200',
      ...env,
    },
  })
}
