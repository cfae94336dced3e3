/**
 * Which processes of this machine have shown the database that they work: workers that beat, monitors and schedulers that
 * have looked.
 *
 * Invariant: a process that has only been started is not at work. Only reads; needs what leasehold_observer may see.
 */
import { hostname } from 'node:os'
import { type Db, listSchedulers, listWorkers } from '@leasehold/queue'

/** Their process ids. */
export async function pidsAtWork(db: Db): Promise<ReadonlySet<number>> {
  const here = hostname()
  const workers = (await listWorkers(db)).filter(({ status }) => status !== 'dead')
  const schedulers = (await listSchedulers(db)).filter(({ status }) => status === 'live')
  const monitors = await db.query<{ host: string; pid: number | null }>(
    'select m.host, m.pid from leasehold.monitors m where m.stopped_at is null',
  )
  const all = [...workers, ...schedulers, ...monitors.rows]
  return new Set(all.flatMap(({ host, pid }) => (host === here && pid !== null ? [pid] : [])))
}
