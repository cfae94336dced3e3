/**
 * Schedules that are due and plans for them, written by hand; what makes plans in earnest is packages/schedules.
 */
import { type Db, type SchedulePlan, advanceSchedules, putSchedule, scheduleFacts } from '@leasehold/queue'
import { expect } from 'vitest'
import type { TestDatabase } from '../../../test/harness/database.ts'

export const scheduler = {
  id: '00000000-0000-4000-8000-000000000001',
  host: 'crane.example',
  pid: 1,
  version: '1',
  pollMs: 1_000,
}

export interface DueSettings {
  readonly key?: string
  readonly stage?: string
}

let count = 0

/** A schedule whose slot came due a moment ago; its name and that slot. */
export async function makeDueSchedule(
  database: TestDatabase,
  settings: DueSettings & { readonly stage: string },
): Promise<{ name: string; slot: number }> {
  const name = `due_${++count}`
  const { pool } = database
  await putSchedule(pool, { name, everyMs: 1_000, owner: 'sql', ...settings })
  const { facts, now } = (await scheduleFacts(pool, name))!
  const slot = Math.ceil((now + 1) / 1_000) * 1_000
  expect(
    await advanceSchedules(pool, [{ ...identity(facts), fire: [], next: slot }], 'command'),
  ).toHaveLength(1)
  await database.advance(slot - now + 1)
  return { name, slot }
}

/** What a plan is for: which schedule, as it was read. */
export function identity(facts: { name: string; revision: number; next_slot: number | null }): {
  name: string
  revision: number
  expected: number | null
} {
  return { name: facts.name, revision: facts.revision, expected: facts.next_slot }
}

/** The plan that fires the pending slot of a schedule. */
export async function planOf(db: Db, name: string): Promise<SchedulePlan> {
  const { facts } = (await scheduleFacts(db, name))!
  return { ...identity(facts), fire: [facts.next_slot!], next: facts.next_slot! + 3_600_000 }
}
