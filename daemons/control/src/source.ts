/**
 * Where all answers come from: a few reads of the views in one read-only transaction, and the check of the schema.
 *
 * Invariant: nothing is written, and the role leasehold_observer suffices. Before the database was reached, and while it is
 * away, every read fails with the reason and is tried again by who asks next.
 */
import { OutageLog, type SchemaStatus, assertSchema, openPool, within } from '@leasehold/postgres'
import {
  type HealthCheck,
  type OpenIncident,
  type StageHealth,
  type StatusCounts,
  countByStatus,
  databaseHealth,
  describeError,
  listStages,
  monitorSilenceMs,
  onSnapshot,
  openIncidents,
} from '@leasehold/queue'
import type { Logger } from '@leasehold/service'
import { type Answer, SharedRead } from './shared-read.ts'

type Pool = ReturnType<typeof openPool>

/** The state of everything at one moment. */
export interface Overview {
  readonly stages: readonly StageHealth[]
  readonly counts: StatusCounts
  readonly checks: readonly HealthCheck[]
  /** The first hundred; `counts` has all. */
  readonly incidents: readonly OpenIncident[]
  /** Null: no monitor has ever looked. */
  readonly monitorSilentMs: number | null
}

/** What a read may take. A watcher gives up after ten seconds (Prometheus), and is answered before that. */
const statementTimeoutMs = 2_000
const queryTimeoutMs = 3_000
const patienceMs = 4_000
const freshMs = 1_000

/** Reads everything on one snapshot. Throws what the database throws. */
export function readOverview(pool: Pool): Promise<Overview> {
  return onSnapshot(pool, statementTimeoutMs, async (tx) => ({
    stages: await listStages(tx),
    counts: await countByStatus(tx),
    checks: await databaseHealth(tx),
    incidents: await openIncidents(tx, 100),
    monitorSilentMs: await monitorSilenceMs(tx),
  }))
}

export class Source {
  readonly overview: SharedRead<Overview>
  /** Passes when the database answers and its schema is one that this program can read. */
  readonly schema: SharedRead<SchemaStatus>
  private readonly log: Pick<Logger, 'info' | 'warn'>
  private readonly outage = new OutageLog()
  private pool: Pool | null = null
  private waitingFor: unknown = null

  /** `onRead` hears of each overview that was read or was not. It must not throw. */
  constructor(log: Pick<Logger, 'info' | 'warn'>, onRead: (answer: Answer<Overview>) => void) {
    this.log = log
    this.overview = new SharedRead(() => readOverview(this.opened()), {
      freshMs,
      patienceMs,
      onEnd: (answer) => {
        onRead(answer)
        this.tell(answer.ok ? null : answer.error)
      },
    })
    this.schema = new SharedRead(() => assertSchema(this.opened()), { freshMs, patienceMs })
  }

  /** Why the database cannot be used yet; said to who asks before `open`. */
  waits(error: unknown): void {
    this.waitingFor = error
  }

  /** Where to read from now on. */
  open(connectionString: string): void {
    this.pool = openPool({
      connectionString,
      applicationName: 'leasehold control',
      max: 2,
      connectTimeoutMs: 2_000,
      statementTimeoutMs,
      queryTimeoutMs,
    })
  }

  /** Ends the connections, within a second. */
  async close(): Promise<void> {
    if (this.pool !== null) await within(1_000, this.pool.end())
  }

  private opened(): Pool {
    if (this.pool !== null) return this.pool
    if (this.waitingFor !== null) throw this.waitingFor
    throw Object.assign(new Error('the database has not been reached yet'), { code: 'STARTING' })
  }

  private tell(error: unknown): void {
    if (this.pool === null) return // its start tells of it
    if (error === null) {
      const failures = this.outage.recovered()
      if (failures > 0)
        this.log.info(
          { event: 'control.recovered', failures },
          'the control service reads its database again',
        )
    } else if (this.outage.failed()) {
      const { code, message } = describeError(error)
      this.log.warn({ event: 'control.read_failed', code, reason: message }, 'a read failed; others follow')
    }
  }
}
