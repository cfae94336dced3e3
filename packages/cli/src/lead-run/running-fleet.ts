/**
 * Whether the workers that `leasehold start` would start run already, started by an earlier one.
 *
 * Starting them again would take their slots: their tasks would be torn from them, and a mail would say that they died.
 */
import { hostname } from 'node:os'
import { type Db, listWorkers, type WorkerHealth } from '@leasehold/queue'

/** The live workers that hold any of these slots. One whose process is known to be gone does not count. */
export async function runningWorkers(db: Db, slots: readonly string[]): Promise<WorkerHealth[]> {
  const workers = await listWorkers(db)
  return workers.filter(
    (worker) => slots.includes(worker.slot) && worker.status !== 'dead' && !isGone(worker),
  )
}

/** Killed a moment ago, its lease goes on; on this host its process can be looked for. */
function isGone({ host, pid }: WorkerHealth): boolean {
  if (host !== hostname() || pid === null) return false
  try {
    process.kill(pid, 0)
    return false
  } catch (error) {
    return (error as { code?: string }).code === 'ESRCH'
  }
}
