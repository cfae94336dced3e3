/**
 * Control: the queue that everybody writes first. One table, a state column, claim by SKIP LOCKED, all in batches.
 *
 * It says how much of a system's speed is batching alone. It has no leases: what a dead worker held stays claimed. It
 * polls; a claim takes half of the places, so that two batches are under way.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { Pool } from 'pg'
import type { BenchTask, System, WorkOptions } from '../system.ts'

export const batch = 5000
export const claimStatement = '%update public.bench_naive%skip locked%'

const pollMs = 5

const claim = `update public.bench_naive set state = 'running', claimed_at = clock_timestamp()
  where id = any (array(select id from public.bench_naive where state = 'ready' and run_at <= clock_timestamp()
    order by priority desc, id limit $1 for update skip locked))
  returning id, payload`
const finish = `update public.bench_naive set state = x.state, ended_at = clock_timestamp()
  from unnest($1::bigint[], $2::text[]) as x(id, state) where bench_naive.id = x.id`

/** Opens it on a database. */
export async function open(url: string): Promise<System> {
  const pool = new Pool({ connectionString: url, max: 8 })
  return {
    async install() {
      await pool.query(`create table public.bench_naive (
          id bigint generated always as identity primary key, payload jsonb not null, priority smallint not null,
          state text not null default 'ready', run_at timestamptz not null, key text unique,
          submitted_at timestamptz not null default now(), claimed_at timestamptz, ended_at timestamptz)`)
      await pool.query(`create index on public.bench_naive (priority desc, id) where state = 'ready'`)
    },
    async submit(tasks) {
      const rows = tasks.map(({ payload, priority = 0, delayMs = 0, key = null }) => ({
        payload,
        priority,
        key,
        delay_ms: delayMs,
      }))
      await pool.query({
        name: 'submit',
        text: `insert into public.bench_naive (payload, priority, key, run_at)
          select payload, priority, key, now() + delay_ms * interval '1 ms'
          from json_to_recordset($1::json) as x(payload jsonb, priority smallint, key text, delay_ms float8)`,
        values: [JSON.stringify(rows)],
      })
    },
    async work(options) {
      const stop = new AbortController()
      const loops = [0, 1].map(() => loop(pool, options, stop.signal))
      return {
        async stop() {
          stop.abort()
          await Promise.all(loops)
        },
      }
    },
    async unfinished() {
      const { rowCount } = await pool.query(
        `(select from public.bench_naive where state = 'ready' limit 1) union all (select from public.bench_naive where state = 'running' limit 1)`,
      )
      return rowCount! > 0
    },
    async ended() {
      const { rows } = await pool.query<{ n: string }>(
        `select count(*) as n from public.bench_naive where state in ('done', 'failed')`,
      )
      return Number(rows[0]!.n)
    },
    close: () => pool.end(),
  }
}

async function loop(pool: Pool, { concurrency, run }: WorkOptions, stop: AbortSignal): Promise<void> {
  const places = Math.max(1, Math.floor(concurrency / 2))
  while (!stop.aborted) {
    const { rows } = await pool.query<{ id: string; payload: BenchTask }>({
      name: 'claim',
      text: claim,
      values: [places],
    })
    if (rows.length === 0) {
      await sleep(pollMs)
      continue
    }
    const states = await Promise.all(
      rows.map(({ payload }) =>
        run(payload).then(
          () => 'done',
          () => 'failed',
        ),
      ),
    )
    await pool.query({ name: 'finish', text: finish, values: [rows.map((row) => row.id), states] })
  }
}
