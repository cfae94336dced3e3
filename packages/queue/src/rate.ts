/**
 * A stage's rate limit as people write it, checked and made whole. What it does to claims is decided in the database
 * (migrations/0023_rates.sql), where it holds over all workers and machines.
 */
import { type Duration, toMs } from './duration.ts'

/**
 * At most `tasks` start per `per` on average, and never more than `tasks` + `burst` within any such length of time.
 * Retries are starts too.
 */
export interface RateLimit {
  /** 1 to 1,000,000. */
  readonly tasks: number
  /** 1 ms to 1 d. */
  readonly per: Duration
  /** So many may start at once after a pause: 1 to `tasks`; default what may start in one second, at least 1. */
  readonly burst?: number | undefined
}

/** The same with every part said. */
export interface WholeRate {
  readonly tasks: number
  readonly perMs: number
  readonly burst: number
}

/** What is wrong with a limit, as the name of the part and a text; null when it can work. Lengths of time must be parsable. */
export function rateProblem({ tasks, per, burst }: RateLimit): { part: string; problem: string } | null {
  if (!whole(tasks, 1_000_000))
    return { part: 'tasks', problem: `must be a whole number from 1 to 1000000, not ${tasks}` }
  const perMs = toMs(per)
  if (!(perMs >= 1 && perMs <= 86_400_000))
    return { part: 'per', problem: `must be between 1 ms and 1 d, not ${per}` }
  if (burst !== undefined && !whole(burst, tasks))
    return { part: 'burst', problem: `must be a whole number from 1 to tasks (${tasks}), not ${burst}` }
  return null
}

function whole(value: number, most: number): boolean {
  return Number.isInteger(value) && value >= 1 && value <= most
}

/** Fills in the burst; the database has the same rule for those who register a stage by SQL. */
export function wholeRate({ tasks, per, burst }: RateLimit): WholeRate {
  const perMs = toMs(per)
  return { tasks, perMs, burst: burst ?? Math.min(tasks, Math.ceil((tasks * 1000) / perMs)) }
}
