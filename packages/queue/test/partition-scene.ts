/**
 * The scene of the tests of ranges of ids: one database for a file; for each test a stage, a worker and a range of its own
 * with two more ahead, and afterwards the question whether anything is wrong.
 *
 * `db`, `stage`, `worker` and `base` are live bindings: `useRanges` sets them before each test. Ranges are ten million ids
 * wide; the sequence is moved instead of submitting that many, and the clock with it, so that the rate looks like one.
 */
import type { Db } from '@leasehold/queue'
import type { Client } from 'pg'
import { afterAll, beforeAll, beforeEach, expect } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { addStage, addWorker, claim, insertTask, problems, settleDone } from './scene.ts'

export const size = 10_000_000n
export const hour = 3_600_000

/** The first id of the test's range. */
export let base: bigint
export let database: TestDatabase
export let db: Db
export let stage: string
export let worker: string

/** To be called once, at the top of a test file. */
export function useRanges(): void {
  beforeAll(async () => {
    database = await createTestDatabase()
    db = database.pool
    await set({ range_ids: String(size) })
  })
  afterAll(() => database.drop())
  beforeEach(async () => {
    stage = await addStage(db)
    await database.advance(hour)
    worker = await addWorker(db, [stage], { ttl: '1 day' })
    await ask('ensure_partitions(2)')
    base = BigInt(await ask<string>('rotate_partitions()'))
    await ask('ensure_partitions(2)')
    return async () => expect(await problems(db)).toEqual([])
  })
}

export async function ask<T>(call: string, ...values: unknown[]): Promise<T> {
  return askOn<T>(db, call, ...values)
}

/** On one session: a refusal is told before its locks are gone, so that another session may still meet them. */
export async function askOn<T>(session: Db, call: string, ...values: unknown[]): Promise<T> {
  const { rows } = await session.query<{ answer: T }>(`select leasehold.${call} as answer`, values)
  return rows[0]!.answer
}

export async function set(settings: Record<string, string | null>): Promise<void> {
  await db.query('select leasehold.set_retention($1)', [JSON.stringify(settings)])
}

export async function firstIds(): Promise<string[]> {
  const { rows } = await db.query<{ first: string }>(
    'select first_id as first from leasehold.partitions order by 1',
  )
  return rows.map((row) => row.first)
}

export async function sessions(n: number): Promise<Client[]> {
  return Promise.all(Array.from({ length: n }, () => database.client()))
}

export async function newestWidth(): Promise<number> {
  const { rows } = await db.query<{ wide: number }>(
    'select (end_id - first_id)::float8 as wide from leasehold.partitions order by first_id desc limit 1',
  )
  return rows[0]!.wide
}

export async function partitionOf(id: string): Promise<string> {
  const { rows } = await db.query<{ name: string }>(
    'select c.relname as name from leasehold.tasks t join pg_class c on c.oid = t.tableoid where t.id = $1',
    [id],
  )
  return rows[0]!.name
}

export async function moveIdsTo(next: bigint): Promise<void> {
  await database.advance(3 * hour)
  await db.query(`select setval('leasehold.tasks_id_seq', $1, false)`, [String(next)])
}

/** Ends everything, and lets a day pass. */
export async function endAll(): Promise<void> {
  await settleDone(db, worker, await claim(db, worker, stage, 100))
  await database.advance(24 * hour)
  worker = await addWorker(db, [stage], { ttl: '1 day' })
}

/** Tries to drop the test's range, if it was closed more than an hour ago; why it stays, or null. */
export async function drop(): Promise<string | null> {
  const reason = await ask<string | null>(`drop_range($1, leasehold.clock() - interval '1 hour')`, base)
  if (reason === null) while ((await ask('drop_leftovers()')) !== null);
  return reason
}

/** Tables of the test's range that are left. */
export async function tablesLeft(): Promise<string[]> {
  const { rows } = await db.query<{ name: string }>(
    `select relname as name from pg_class where relname ~ ('_' || $1 || '$') and relkind = 'r'
      and relnamespace = 'leasehold'::regnamespace order by 1`,
    [base],
  )
  return rows.map((row) => row.name.replace(`_${base}`, ''))
}

/** A task of the test's range that ended a day ago, in a range that is closed. */
export async function endedLongAgo(): Promise<string> {
  const id = await insertTask(db, stage)
  await ask('rotate_partitions()')
  await db.query('select leasehold.cancel_task($1)', [id])
  await database.advance(24 * hour)
  return id
}
