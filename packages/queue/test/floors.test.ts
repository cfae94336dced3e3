/**
 * Floors never pass a task by: whatever commits late, out of order, in savepoints or in two phases, is claimed.
 *
 * Each case by itself, with real sessions. All of them at random and at once: floors-at-random.test.ts. What floors are
 * good for: plans.test.ts.
 */
import type { Db } from '@leasehold/queue'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { addStage, addWorker, claim, insertTask, insertTasks, problems, settleDone } from './scene.ts'

let database: TestDatabase
let db: Db
let stage: string
let worker: string

beforeAll(async () => {
  database = await createTestDatabase()
  db = database.pool
})
afterAll(() => database.drop())
beforeEach(async () => {
  stage = await addStage(db)
  worker = await addWorker(db, [stage], { ttl: '1 day' })
  return async () => {
    expect(await problems(db)).toEqual([])
    await db.query('select leasehold.leave(id) from leasehold.workers where ended_at is null')
  }
})

/** One tick: floors rise by any step. Null when another session ticks at this moment. */
async function tick(on: Db, patience: string): Promise<number | null> {
  const { rows } = await on.query<{ raised: number | null }>(
    'select leasehold.advance_floors($1, 1) as raised',
    [patience],
  )
  return rows[0]!.raised
}

/** Two probes and a look: everything that is settled now lies below the floors or is alive above them. */
async function settleFloors(patience = '1 hour'): Promise<void> {
  for (let i = 0; i < 3; i++) await tick(db, patience)
}

async function floorOf(of: string): Promise<number> {
  const { rows } = await db.query<{ floor: string }>(
    'select coalesce(max(floor), 0) as floor from leasehold.floors where stage = $1',
    [of],
  )
  return Number(rows[0]!.floor)
}

async function claimAll(): Promise<string[]> {
  return (await claim(db, worker, stage, 1000)).map((lease) => lease.taskId)
}

/** Submits and claims, so that the floor has something to rise over. */
async function drain(n: number): Promise<void> {
  await insertTasks(db, stage, n)
  await settleDone(db, worker, await claim(db, worker, stage, n))
}

test('the floor of a drained lane rises to its end', async () => {
  await drain(50)
  await settleFloors()
  const before = await floorOf(stage)
  await drain(50)
  await settleFloors()
  expect(await floorOf(stage)).toBe(before) // a drained lane gets a new floor seldom
  const [id] = await insertTasks(db, stage, 1)
  await settleFloors()
  expect(await floorOf(stage)).toBeGreaterThan(before)
  expect(await claimAll()).toEqual([id])
})

test('an open submitter is waited for, and its tasks are claimed when it commits', async () => {
  const session = await database.client()
  await session.query('begin')
  const id = await insertTask(session, stage)
  await drain(20)
  const last = await insertTask(db, stage)
  await settleFloors()
  await settleFloors()
  await session.query('commit')
  await settleFloors()
  expect(await claimAll()).toEqual([id, last])
})

test.each([
  ['commits', 'commit', 2],
  ['rolls back', 'rollback', 0],
] as const)(
  'a submitter open beyond patience is passed; when it %s nothing is lost',
  async (_, end, left) => {
    await drain(20)
    await insertTask(db, stage)
    await settleFloors()
    await claimAll()
    const session = await database.client()
    await session.query('begin')
    const ids = await insertTasks(session, stage, 2)
    await drain(20)
    const last = await insertTask(db, stage)
    const before = await floorOf(stage)
    await settleFloors('0')
    await settleFloors('0')
    expect(await floorOf(stage)).toBeGreaterThan(before)
    await session.query(end)
    const first = await claimAll()
    await settleFloors('0')
    const { rowCount } = await db.query('select from leasehold.stragglers')
    expect(rowCount).toBe(0)
    const claimed = [...first, ...(await claimAll())]
    expect(claimed.toSorted()).toEqual((left > 0 ? [...ids, last] : [last]).toSorted())
  },
)

test('a straggler that goes on submitting, also in savepoints, leaves nothing behind', async () => {
  const session = await database.client()
  await session.query('begin')
  const ids = [await insertTask(session, stage)]
  for (const how of ['release', 'rollback to', 'release', 'rollback to'] as const) {
    await drain(10)
    await insertTask(db, stage, { priority: 9 })
    await settleFloors('0')
    await session.query('savepoint s')
    const id = await insertTask(session, stage)
    await drain(10)
    await settleFloors('0')
    await session.query(`${how} savepoint s`)
    if (how === 'release') ids.push(id)
  }
  await settleFloors('0')
  await session.query('commit')
  await settleFloors('0')
  await claim(db, worker, stage, 4) // the four of priority 9
  expect((await claimAll()).toSorted()).toEqual(ids.toSorted())
})

test('a straggler whose row somebody holds at the moment is looked at once more', async () => {
  const session = await database.client()
  await session.query('begin')
  const id = await insertTask(session, stage)
  await drain(10)
  await insertTask(db, stage)
  await settleFloors('0')
  await session.query('commit')
  const holder = await database.client()
  await holder.query('begin')
  await holder.query('select from leasehold.ready where task_id = $1 for update', [id])
  await settleFloors('0')
  await holder.query('rollback')
  await settleFloors('0')
  expect(await claimAll()).toContain(id)
})

test('long readers and long writers of other tables do not hold floors back', async () => {
  const [reader, writer] = [await database.client(), await database.client()]
  await reader.query('begin isolation level repeatable read')
  await reader.query('select from leasehold.ready')
  await writer.query('begin')
  await writer.query('insert into leasehold.locks (name) values ($1)', [stage])
  await drain(20)
  await insertTask(db, stage)
  await settleFloors()
  expect(await floorOf(stage)).toBeGreaterThan(0)
  await Promise.all([reader.query('rollback'), writer.query('rollback')])
})

async function writers(): Promise<string[]> {
  const { rows } = await db.query<{ xid: string }>('select xid::text from leasehold.ready_writers()')
  return rows.map((row) => row.xid)
}

test('the writers of ready are known by their full transaction ids', async () => {
  const [one, two] = [await database.client(), await database.client()]
  await one.query('begin')
  await two.query('begin')
  await insertTask(one, stage)
  await two.query('select pg_current_xact_id()') // an id, but no lock on ready
  const { rows } = await one.query<{ xid: string }>('select pg_current_xact_id()::text as xid')
  expect(await writers()).toEqual([rows[0]!.xid])
  await Promise.all([one.query('rollback'), two.query('rollback')])
  expect(await writers()).toEqual([])
})

test('a prepared transaction is a writer, is waited for, and leaves nothing below a floor', async () => {
  const session = await database.client()
  await session.query('begin')
  const id = await insertTask(session, stage)
  const { rows } = await session.query<{ xid: string }>('select pg_current_xact_id()::text as xid')
  await session.query(`prepare transaction 'test of ${database.name}'`)
  await session.end()
  expect(await writers()).toEqual([rows[0]!.xid])
  await drain(20)
  const last = await insertTask(db, stage)
  await settleFloors()
  await settleFloors('0')
  await db.query(`commit prepared 'test of ${database.name}'`)
  await settleFloors('0')
  expect((await claimAll()).toSorted()).toEqual([id, last].toSorted())
})

test('the very first position of a queue is not taken for one that was drawn', async () => {
  const fresh = await createTestDatabase()
  try {
    const of = await addStage(fresh.pool)
    expect(await tick(fresh.pool, '1 hour')).toBe(0)
    const session = await fresh.client()
    await session.query('begin')
    const first = await insertTask(session, of)
    const second = await insertTask(fresh.pool, of)
    await tick(fresh.pool, '1 hour')
    await session.query('commit')
    const leases = await claim(fresh.pool, await addWorker(fresh.pool, [of]), of, 5)
    expect(leases.map((lease) => lease.taskId)).toEqual([first, second])
    expect(await problems(fresh.pool)).toEqual([])
  } finally {
    await fresh.drop()
  }
})

test('floors are not moved on an old snapshot, nor by a transaction that has already written', async () => {
  const session = await database.client()
  await session.query('begin isolation level repeatable read')
  await expect(tick(session, '0')).rejects.toMatchObject({ code: 'LH004' })
  await session.query('rollback; begin')
  await session.query('select pg_current_xact_id()')
  await expect(tick(session, '0')).rejects.toMatchObject({ code: '25001' })
  await session.query('rollback')
})

test('of two that tick at once the second does nothing and does not wait', async () => {
  const session = await database.client()
  await session.query('begin')
  await tick(session, '0')
  expect(await tick(db, '0')).toBeNull()
  await session.query('commit')
})

test('who asks within the time of somebody else’s tick does nothing; a probe of the future holds nobody up', async () => {
  const session = await database.client()
  const ask = async (): Promise<number | null> => {
    const { rows } = await session.query<{ raised: number | null }>(
      "select leasehold.advance_floors_every('1 minute') as raised",
    )
    return rows[0]!.raised
  }
  const writes = async (): Promise<boolean> => {
    await session.query('begin')
    await ask()
    const { rows } = await session.query<{ xid: string | null }>(
      'select pg_current_xact_id_if_assigned()::text as xid',
    )
    await session.query('commit')
    return rows[0]!.xid !== null
  }
  await settleFloors()
  expect(await ask()).toBeNull()
  expect(await writes()).toBe(false)
  await database.advance(61_000)
  expect(await writes()).toBe(true)
  expect(await writes()).toBe(false)
  await database.advance(-3_600_000)
  expect(await ask()).not.toBeNull()
  await session.end()
})
