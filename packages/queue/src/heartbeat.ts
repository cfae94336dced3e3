/**
 * The beat of a worker: what the heartbeat thread sends, and nothing else.
 *
 * A door of its own (`@leasehold/queue/heartbeat`), so that a thread that only beats loads only this.
 */
import type { Db } from './db.ts'
import type { Revocation } from './exchange.ts'

/** One beat, as it is sent by the heartbeat thread. */
export interface Beat {
  workerId: string
  loopAgeMs: number
  oldestFence: string | null
  running: number
  draining: boolean
  /** False reports a wedged loop without renewing the leases. */
  renew: boolean
}

/** The answer to a beat. */
export interface BeatAnswer {
  state: 'live' | 'ended' | 'unknown'
  reason: string | null
  drain: boolean | null
  revoked: Revocation[] | null
}

/** Renews the worker and with it all its leases. */
export async function heartbeat(db: Db, beat: Beat): Promise<BeatAnswer> {
  const { rows } = await db.query<BeatAnswer & { state: string }>({
    name: 'leasehold_heartbeat',
    text: 'select state, reason, drain, revoked from leasehold.heartbeat($1, $2, $3, $4, $5, $6)',
    values: [beat.workerId, beat.loopAgeMs, beat.oldestFence, beat.running, beat.draining, beat.renew],
  })
  return rows[0] as BeatAnswer
}
