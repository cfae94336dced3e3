/**
 * Leasehold through its public functions: submit and submitMany, and a runner per worker. Default settings throughout;
 * in the variant 'nothing-ahead' a crash limit of one, with which no runner holds more than it has places for.
 */
import { migrate, openPool } from '@leasehold/postgres'
import { defineStage, type Stage, registerStage, submit, submitMany } from '@leasehold/queue'
import { startRunner } from '@leasehold/runner'
import { z } from 'zod'
import type { BenchTask, System, WorkOptions } from '../system.ts'

export const batch = 5000
export const claimStatement = '%leasehold.exchange%'

/** Faults of the runner are shown; the rest of its log is not what is measured. */
const log = {
  debug() {},
  info() {},
  warn() {},
  error(facts: object, message: string) {
    process.stderr.write(`${message} ${JSON.stringify(facts)}\n`)
  },
}

function stageOf(
  variant: string | null,
  concurrency: number,
  run: (task: BenchTask) => Promise<void>,
): Stage {
  return defineStage({
    name: 'bench',
    payload: z.unknown(),
    concurrency,
    timeout: '1 h',
    ...(variant === 'nothing-ahead' ? { limits: { crashes: 1 } } : {}),
    run: (ctx) => run(ctx.payload as BenchTask),
  })
}

/** Opens it on a database. */
export async function open(url: string, variant: string | null): Promise<System> {
  const pool = openPool({ connectionString: url, applicationName: 'bench', max: 8 })
  return {
    async install() {
      await migrate(url)
      await registerStage(
        pool,
        stageOf(variant, 1, () => Promise.resolve()),
      )
    },
    async submit(tasks) {
      const items = tasks.map(({ payload, priority, delayMs, key }) => ({
        payload,
        ...(priority === undefined ? {} : { priority: priority + 3 }),
        ...(delayMs === undefined ? {} : { runAt: new Date(Date.now() + delayMs) }),
        ...(key === undefined ? {} : { key }),
        ...(payload.fail ? { maxAttempts: 1 } : {}),
      }))
      if (items.length > 1) await submitMany(pool, 'bench', items)
      else for (const { payload, ...options } of items) await submit(pool, 'bench', payload, options)
    },
    work: ({ concurrency, slot, run }: WorkOptions) =>
      startRunner({ connectionString: url, stages: [stageOf(variant, concurrency, run)], slot, log }).then(
        (runner) => ({
          stop: () => runner.drain(),
        }),
      ),
    async unfinished() {
      const { rowCount } = await pool.query(
        `(select from leasehold.leases limit 1) union all (select from leasehold.ready limit 1)
          union all (select from leasehold.scheduled limit 1) union all (select from leasehold.waiting limit 1)`,
      )
      return rowCount! > 0
    },
    async ended() {
      const { rows } = await pool.query<{ n: string }>(
        'select count(*) as n from leasehold.attempts where final',
      )
      return Number(rows[0]!.n)
    },
    close: () => pool.end(),
  }
}
