/**
 * Why a run does not move: which of its stages are paused or have nobody who works on them, and the command that helps.
 *
 * A stage without a worker is named only after a while: workers need a moment to start, or to be started again.
 */
import { hostname } from 'node:os'
import { type Db, listStages, type RunStageProgress, type StageHealth } from '@leasehold/queue'

const lookEveryMs = 2000
const unservedAfterMs = 10_000

/** Looks now and then; what it found last stands until it looks again. */
export class Holdups {
  private readonly db: Db
  private readonly unservedSince = new Map<string, number>()
  private lookedAt = -Infinity
  private found: ReadonlyMap<string, string> = new Map()

  constructor(db: Db) {
    this.db = db
  }

  /** By stage, what holds back its open tasks and what to do; empty when nothing does. */
  async look(stages: readonly RunStageProgress[]): Promise<ReadonlyMap<string, string>> {
    if (performance.now() - this.lookedAt < lookEveryMs) return this.found
    this.lookedAt = performance.now()
    const open = new Set(stages.filter((stage) => stage.open > 0).map((stage) => stage.stage))
    const found = new Map<string, string>()
    for (const health of open.size === 0 ? [] : await listStages(this.db)) {
      const why = open.has(health.stage) ? this.reason(health) : null
      if (why !== null) found.set(health.stage, why)
    }
    this.found = found
    return found
  }

  private reason({ stage, paused, pausedUntil, liveWorkers }: StageHealth): string | null {
    if (paused) {
      const until = pausedUntil === null ? '' : ` until ${pausedUntil.toISOString()}`
      return `is paused${until}; to go on: npx leasehold resume ${stage}`
    }
    if (liveWorkers > 0) {
      this.unservedSince.delete(stage)
      return null
    }
    const since = this.unservedSince.get(stage) ?? this.lookedAt
    this.unservedSince.set(stage, since)
    if (this.lookedAt - since < unservedAfterMs) return null
    return `has no worker; to go on: npx leasehold runner --stage ${stage} --slot ${stage}@${hostname().slice(0, 40)}`
  }
}
