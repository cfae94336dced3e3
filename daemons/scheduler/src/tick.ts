/**
 * One turn of a scheduler: what is due is planned here and carried out by the database.
 *
 * Invariant: nothing is remembered between turns, so a scheduler may die at any point and any number may run. Two
 * statements: the look, and, when something is due, one transaction for all of it. When the database refuses that, each
 * goes by itself, for as long as a turn may take: a schedule whose firing it refuses is set aside with the reason, one
 * that somebody holds is put off by seconds, behind the others.
 */
import {
  type CarriedOut,
  type Db,
  type SchedulePlan,
  type SchedulerIntroduction,
  advanceSchedules,
  describeError,
  schedulerTick,
} from '@leasehold/queue'
import { isFailover } from '@leasehold/postgres'
import { planOf } from '@leasehold/schedules'

/** A schedule and why it did not fire. */
export interface Unfired {
  readonly schedule: string
  readonly problem: string
}

/** What a turn has done. */
export interface Turn {
  /** Plans that were carried out; 0 with `due` above 0: others were at the same schedules. */
  readonly moved: number
  readonly due: number
  readonly carried: readonly CarriedOut[]
  /** Schedules that cannot fire, with the reason that was written into them. */
  readonly problems: readonly Unfired[]
  /** Schedules that were put off because another transaction holds what their firing needs. */
  readonly held: readonly Unfired[]
  /** Until the next slot is due, by the database's clock; null: no schedule has one. */
  readonly waitMs: number | null
}

/** How long a turn goes on with schedules one by one. Each may wait for a lock for a second, and a watchdog waits for the turn. */
const oneByOneMs = 20_000

/**
 * Looks once and fires what is due. Throws when the database fails; what was not committed has not happened. What
 * `budgetMs` was too short for is due in the next turn.
 */
export async function tick(
  db: Db,
  scheduler: SchedulerIntroduction,
  budgetMs: number = oneByOneMs,
): Promise<Turn> {
  const { now, wait_ms: waitMs, due } = await schedulerTick(db, scheduler)
  if (due.length === 0) return { moved: 0, due: 0, carried: [], problems: [], held: [], waitMs }
  const plans = due.map((facts) => planOf(facts, now))
  const { carried, aside } = await carryOut(db, plans, scheduler.id, budgetMs)
  const done = new Set(carried.map(({ schedule }) => schedule))
  const unfired = (what: 'problem' | 'held'): Unfired[] =>
    [...plans, ...aside].flatMap((plan) => {
      const problem = plan[what]
      return problem !== undefined && done.has(plan.name) ? [{ schedule: plan.name, problem }] : []
    })
  const [problems, held] = [unfired('problem'), unfired('held')]
  return { moved: carried.length, due: due.length, carried, problems, held, waitMs }
}

async function carryOut(
  db: Db,
  plans: readonly SchedulePlan[],
  scheduler: string,
  budgetMs: number,
): Promise<{ carried: CarriedOut[]; aside: SchedulePlan[] }> {
  try {
    return { carried: await advanceSchedules(db, plans, { scheduler }), aside: [] }
  } catch (error) {
    if (!isAboutValues(error)) throw error
  }
  // One of them is to blame: each by itself shows which. At least one is tried, so that every turn gets further.
  const end = performance.now() + budgetMs
  const carried: CarriedOut[] = []
  const aside: SchedulePlan[] = []
  for (const plan of plans) {
    try {
      carried.push(...(await advanceSchedules(db, [plan], { scheduler })))
    } catch (error) {
      if (!isAboutValues(error)) throw error
      const instead = setAside(plan, error)
      aside.push(instead)
      carried.push(...(await advanceSchedules(db, [instead], { scheduler })))
    }
    if (performance.now() >= end) break
  }
  return { carried, aside }
}

/** The plan that fires nothing and says why. */
function setAside({ name, revision, expected }: SchedulePlan, error: unknown): SchedulePlan {
  const { message } = describeError(error)
  const reason = isHeld(error)
    ? { held: `another transaction holds what its firing needs: ${message}` }
    : { problem: `the database refuses to fire it: ${message}` }
  return { name, revision, expected, fire: [], next: expected, ...reason }
}

/** The server answered, and its answer is no matter of time: not shutting down, not out of resources, no deadlock. */
function isAboutValues(error: unknown): boolean {
  if (typeof error !== 'object' || error === null || !('severity' in error)) return false
  return isHeld(error) || (!isFailover(error) && !/^(40|53|55|57)/.test(codeOf(error)))
}

/** A lock that was not given is about one of them too: an open transaction has taken its task's key. */
function isHeld(error: unknown): boolean {
  return codeOf(error) === '55P03'
}

function codeOf(error: unknown): string {
  return typeof error === 'object' && error !== null && 'code' in error ? String(error.code) : ''
}
