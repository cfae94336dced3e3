/**
 * One turn of a scheduler: what is due is planned here and carried out by the database.
 *
 * Invariant: nothing is remembered between turns, so a scheduler may die at any point and any number may run. Two
 * statements: the look, and, when something is due, one transaction for all of it. A schedule whose firing the database
 * refuses is set aside with the reason; the others go on.
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

/** What a turn has done. */
export interface Turn {
  /** Plans that were carried out; 0 with `due` above 0: others were at the same schedules. */
  readonly moved: number
  readonly due: number
  readonly carried: readonly CarriedOut[]
  /** Schedules that cannot fire, with the reason that was written into them. */
  readonly problems: readonly { readonly schedule: string; readonly problem: string }[]
  /** Until the next slot is due, by the database's clock; null: no schedule has one. */
  readonly waitMs: number | null
}

/** Looks once and fires what is due. Throws when the database fails; what was not committed has not happened. */
export async function tick(db: Db, scheduler: SchedulerIntroduction): Promise<Turn> {
  const { now, wait_ms: waitMs, due } = await schedulerTick(db, scheduler)
  if (due.length === 0) return { moved: 0, due: 0, carried: [], problems: [], waitMs }
  const plans = due.map((facts) => planOf(facts, now))
  const { carried, refused } = await carryOut(db, plans, scheduler.id)
  const problems = [...plans, ...refused].filter(
    ({ name, problem }) => problem !== undefined && carried.some(({ schedule }) => schedule === name),
  )
  return {
    moved: carried.length,
    due: due.length,
    carried,
    problems: problems.map(({ name, problem }) => ({ schedule: name, problem: problem ?? '' })),
    waitMs,
  }
}

async function carryOut(
  db: Db,
  plans: readonly SchedulePlan[],
  scheduler: string,
): Promise<{ carried: CarriedOut[]; refused: SchedulePlan[] }> {
  try {
    return { carried: await advanceSchedules(db, plans, { scheduler }), refused: [] }
  } catch (error) {
    if (!isAboutValues(error)) throw error
  }
  // One of them is to blame: each by itself shows which.
  const carried: CarriedOut[] = []
  const refused: SchedulePlan[] = []
  for (const plan of plans) {
    try {
      carried.push(...(await advanceSchedules(db, [plan], { scheduler })))
    } catch (error) {
      if (!isAboutValues(error)) throw error
      const { name, revision, expected } = plan
      const problem = `the database refuses to fire it: ${describeError(error).message}`
      const aside: SchedulePlan = { name, revision, expected, fire: [], next: expected, problem }
      refused.push(aside)
      carried.push(...(await advanceSchedules(db, [aside], { scheduler })))
    }
  }
  return { carried, refused }
}

/**
 * The server answered, and its answer is no matter of time: not shutting down, not out of resources, no deadlock. A lock
 * that was not given (55P03) is about one of them too: an open transaction has taken its task's key.
 */
function isAboutValues(error: unknown): boolean {
  if (typeof error !== 'object' || error === null || !('severity' in error)) return false
  const code = 'code' in error ? String(error.code) : ''
  return code === '55P03' || (!isFailover(error) && !/^(40|53|55|57)/.test(code))
}
