/**
 * Control: the least a queue with history can do. Each task is deleted from one table and inserted into another, in
 * batches, by `pg`; two batches are under way over ranges of ids that nobody else touches.
 *
 * It is not a queue: at most once, one process, no claim, no order, no failure. It is the limit the others are held against.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { Pool } from 'pg'
import type { BenchTask, System, WorkOptions } from '../system.ts'

export const batch = 5000
/** Tasks in a statement: as in the largest exchanges of Leasehold. It has no handlers to keep within a number. */
const size = 1000
export const claimStatement = '%delete from public.bench_ready%'

const move = `with taken as (delete from public.bench_ready where id > $1 and id <= $2 returning id, payload),
  kept as (insert into public.bench_done (id, payload) select id, payload from taken)
  select payload from taken`

/** Opens it on a database. */
export async function open(url: string): Promise<System> {
  const pool = new Pool({ connectionString: url, max: 8 })
  return {
    async install() {
      await pool.query(
        `create table public.bench_ready (id bigint generated always as identity primary key, payload jsonb not null)`,
      )
      await pool.query(`create table public.bench_done (id bigint primary key, payload jsonb not null)`)
    },
    async submit(tasks) {
      await pool.query({
        name: 'submit',
        text: 'insert into public.bench_ready (payload) select value from json_array_elements($1::json)',
        values: [JSON.stringify(tasks.map(({ payload }) => payload))],
      })
    },
    async work(options) {
      const stop = new AbortController()
      const position = { next: 0 }
      const loops = [0, 1].map(() => loop(pool, options, position, stop.signal))
      return {
        async stop() {
          stop.abort()
          await Promise.all(loops)
        },
      }
    },
    async unfinished() {
      return (await pool.query('select from public.bench_ready limit 1')).rowCount! > 0
    },
    async ended() {
      return Number(
        (await pool.query<{ n: string }>('select count(*) as n from public.bench_done')).rows[0]!.n,
      )
    },
    close: () => pool.end(),
  }
}

async function loop(
  pool: Pool,
  { run }: WorkOptions,
  position: { next: number },
  stop: AbortSignal,
): Promise<void> {
  while (!stop.aborted) {
    const from = position.next
    position.next += size
    const { rows } = await pool.query<{ payload: BenchTask }>({
      name: 'move',
      text: move,
      values: [from, from + size],
    })
    if (rows.length === 0) {
      // Past the end, or a gap of the sequence that has not been filled yet: ids are never used twice.
      const { rows: last } = await pool.query<{ id: string | null }>(
        'select min(id) as id from public.bench_ready',
      )
      position.next = Math.min(position.next, Number(last[0]!.id ?? from + 1) - 1)
      await sleep(5)
      continue
    }
    await Promise.all(rows.map(({ payload }) => run(payload)))
  }
}
