/**
 * Grace: after a time in which nobody knows whether workers could beat, each has one TTL to do so before it is released.
 */
import { beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { claim, stage, stateOf, submit, ttlMs, watch, work } from './watching.ts'

let db: TestDatabase
beforeEach(async ({ onTestFinished }) => {
  db = await createTestDatabase()
  onTestFinished(() => db.drop())
  await stage(db, 's')
})

/** A monitor's look by its verbs, with an interval of a minute, in one transaction as it does. */
async function tick(id: string, awayMs = 0): Promise<number> {
  const client = await db.client()
  await client.query('begin')
  await client.query("select leasehold.monitor_beat($1, 'a', 1, '1', 60000, $2 * interval '1 millisecond')", [
    id,
    awayMs,
  ])
  const { rows } = await client.query("select opened from leasehold.monitor_tick('1 min', '1 hour')")
  await client.query('commit')
  await client.end()
  return rows[0].opened.length
}
const [one, two] = ['00000000-0000-4000-8000-000000000001', '00000000-0000-4000-8000-000000000002']

test('the first monitor ever gives every worker a TTL of its own before it releases it', async () => {
  await work(db, 'slow', ['s'])
  await work(db, 'fast', ['s'], { ttl: 9_000 })
  await db.advance(10 * ttlMs)

  expect(await tick(one)).toBe(0)
  await db.advance(9_001)
  expect(await tick(one)).toBe(1)
  await db.advance(ttlMs - 9_001 + 1)
  expect(await tick(one)).toBe(1)
})

test('a worker that beats in the grace keeps its lease', async () => {
  const worker = await work(db, 'w', ['s'])
  const task = await submit(db, 's')
  await claim(db, worker, 's')
  await tick(one)
  await db.advance(10 * ttlMs)
  expect(await tick(one)).toBe(0)

  await db.pool.query('select leasehold.heartbeat($1)', [worker])
  await db.advance(ttlMs - 30_000)

  expect(await tick(one)).toBe(0)
  expect(await stateOf(db, task)).toBe('running')
})

test('looks at the usual interval leave no grace behind', async () => {
  await tick(one)
  await db.advance(ttlMs + 1)
  await tick(one)
  await db.pool.query('delete from leasehold.monitor_gaps')
  await work(db, 'w', ['s'])
  await db.advance(60_000)
  await tick(two)
  await db.advance(ttlMs - 60_000 + 1)

  expect(await tick(one)).toBe(1)
})

test('a monitor that was cut off gives grace, unless another one looked meanwhile', async () => {
  await tick(one)
  await db.pool.query('delete from leasehold.monitor_gaps')
  await work(db, 'w', ['s'])
  await db.advance(ttlMs + 1)
  expect(await tick(one, 80_000)).toBe(0)
  await db.advance(ttlMs + 1)
  expect(await tick(one)).toBe(1)

  await work(db, 'w', ['s'])
  await db.advance(ttlMs - 5_000)
  await tick(two)
  await db.advance(5_001)
  expect(await tick(one, 80_000)).toBe(1)
})

test('a cut shorter than half a TTL cannot have killed anybody and holds nothing up', async () => {
  await tick(one)
  await db.pool.query('delete from leasehold.monitor_gaps')
  await work(db, 'w', ['s'])
  await db.advance(ttlMs + 1)

  expect(await tick(one, ttlMs / 2 - 1)).toBe(1)
})

test('the grace binds runners that release as well', async () => {
  await work(db, 'w', ['s'])
  await db.advance(10 * ttlMs)
  await tick(one)

  const released = await db.pool.query('select from leasehold.release_dead_workers()')
  expect(released.rowCount).toBe(0)
})

test('tasks past their deadline are not taken from a worker that could not settle them', async () => {
  const monitor = await watch(db, null)
  const worker = await work(db, 'w', ['s'], { ttl: 3_600_000 })
  await db.pool.query("insert into leasehold.tasks (stage, timeout) values ('s', '1 min')")
  const [task = ''] = await claim(db, worker, 's')
  await db.advance(2 * 60_000)
  await db.pool.query(
    "insert into leasehold.monitor_gaps (ended_at, lasted) values (leasehold.clock(), '2 min')",
  )
  await monitor.tick()
  expect(await stateOf(db, task)).toBe('running')

  await db.advance(60_001)
  await monitor.tick()
  expect(await stateOf(db, task)).toBe('scheduled')
})
