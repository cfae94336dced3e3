/**
 * CPU and time of a stretch of work in this process, and the WAL the whole server wrote meanwhile.
 */
import type { Client } from 'pg'

/** Figures of the stretch between `start` and `stop`. */
export interface Stretch {
  readonly seconds: number
  readonly cpuMicros: number
  readonly walBytes: number
}

/** Starts measuring; the answer ends it. */
export async function startClock(client: Client): Promise<() => Promise<Stretch>> {
  const lsn = async () =>
    (await client.query<{ lsn: string }>('select pg_current_wal_lsn()::text as lsn')).rows[0]!.lsn
  const walStart = await lsn()
  const cpu = process.cpuUsage()
  const started = performance.now()
  return async () => {
    const seconds = (performance.now() - started) / 1000
    const used = process.cpuUsage(cpu)
    const { rows } = await client.query<{ bytes: number }>(
      'select pg_wal_lsn_diff($1, $2)::float8 as bytes',
      [await lsn(), walStart],
    )
    return { seconds, cpuMicros: used.user + used.system, walBytes: rows[0]!.bytes }
  }
}
