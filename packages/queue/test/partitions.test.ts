/**
 * Ranges of ids: made ahead, as wide as the rate of submission asks for, turned over by time; no task is lost on the way.
 *
 * How they go is dropped-ranges.test.ts; duties that call these functions are housekeeping.test.ts.
 */
import type { Client } from 'pg'
import { expect, test } from 'vitest'
import {
  ask,
  askOn,
  base,
  database,
  db,
  drop,
  firstIds,
  hour,
  moveIdsTo,
  newestWidth,
  partitionOf,
  sessions,
  set,
  size,
  stage,
  worker,
  useRanges,
} from './partition-scene.ts'
import { addWorker, claim, claimOne, insertTask, insertTasks, settle, settleDone } from './scene.ts'

useRanges()

test('two ranges are kept ahead of the ids, and making them again makes nothing', async () => {
  expect((await firstIds()).at(-1)).toBe(String(base + 2n * size))
  expect(await ask('ensure_partitions()')).toBe(0)
  await moveIdsTo(base + size - 1n)
  await insertTasks(db, stage, 3)
  expect(await ask('ensure_partitions()')).toBe(1)
  expect((await firstIds()).at(-1)).toBe(String(base + 3n * size))
})

test('when nobody made ranges, tasks go to the default one, live there, and new ranges go on behind them', async () => {
  await moveIdsTo(base + 3n * size + 5n)
  const id = await insertTask(db, stage)
  expect(await partitionOf(id)).toBe('tasks_default')
  expect(await ask('ensure_partitions()')).toBe(2)
  expect((await firstIds()).slice(-2)).toEqual([String(base + 4n * size), String(base + 5n * size)])
  const lease = await claimOne(db, worker, stage)
  expect(await settle(db, worker, lease, 'done', { result: 1 })).toBe(true)
  await moveIdsTo(base + 4n * size)
  expect(await partitionOf(await insertTask(db, stage))).toBe(`tasks_${base + 4n * size}`)
})

test('an open submitter does not keep ranges from being made; ids jump when it has ended', async () => {
  const [session, monitor] = (await sessions(2)) as [Client, Client]
  await session.query('begin')
  await insertTask(session, stage)
  expect(await askOn(monitor, 'ensure_partitions(4)')).toBe(2)
  await expect(askOn(monitor, 'rotate_partitions()')).rejects.toMatchObject({ code: '55P03' })
  await session.query('commit')
  expect(await askOn(monitor, 'rotate_partitions()')).toBe(String(base + size))
})

test('whoever reads every partition in an open transaction keeps none waiting: ranges are made another time', async () => {
  const [session, monitor] = (await sessions(2)) as [Client, Client]
  await session.query('begin')
  await session.query('select count(*) from leasehold.tasks')
  await expect(askOn(monitor, 'ensure_partitions(4)')).rejects.toMatchObject({ code: '55P03' })
  await session.query('rollback')
  expect(await askOn(monitor, 'ensure_partitions(4)')).toBe(2)
})

test('ids jump when a range has taken tasks for its span, and not while it has taken none', async () => {
  await database.advance(30 * 24 * hour)
  expect(await ask('rotation_is_due()')).toBe(false)
  await insertTasks(db, stage, 2)
  expect(await ask('rotation_is_due()')).toBe(true)
  await ask('rotate_partitions()')
  expect(await ask('rotation_is_due()')).toBe(false)
  await claim(db, await addWorker(db, [stage], { ttl: '1 day' }), stage, 2)
})

test('when ids ran out of all ranges, they jump into the next one as soon as it is made', async () => {
  await moveIdsTo(base + 3n * size + 5n)
  await insertTask(db, stage)
  await ask('ensure_partitions()')
  expect(await ask('rotation_is_due()')).toBe(true)
  const next = await ask<string>('rotate_partitions()')
  expect(await partitionOf(await insertTask(db, stage))).toBe(`tasks_${next}`)
})

test('a new range begins where ids jump to, and what is unfinished goes on', async () => {
  const [old] = await insertTasks(db, stage, 1)
  expect(await ask('rotate_partitions()')).toBe(String(base + size))
  const next = await insertTask(db, stage, { depends_on: [old] })
  expect(next).toBe(String(base + size))
  expect(await partitionOf(next)).toBe(`tasks_${base + size}`)
  await settleDone(db, worker, await claim(db, worker, stage))
  expect((await claimOne(db, worker, stage)).taskId).toBe(next)
})

test('two that rotate at once do not both jump', async () => {
  await insertTask(db, stage)
  const session = await database.client()
  await session.query('begin')
  await session.query('select leasehold.rotate_partitions()')
  expect(await ask('rotate_partitions()')).toBeNull()
  expect(await ask('ensure_partitions(9)')).toBe(0)
  expect(await drop()).toMatch(/another process/)
  await session.query('commit')
})

test('ranges are as wide as the rate of submission asks for, or as they are told to be', async () => {
  await moveIdsTo(base + size) // a thousand tasks a second, for three hours
  await set({ range_ids: '5000' })
  expect(await ask('ensure_partitions(3)')).toBe(2)
  expect(await newestWidth()).toBe(5_000)
  await set({ range_ids: null, rotate_every: '1 day' })
  expect(await ask('ensure_partitions(4)')).toBe(1)
  expect(await newestWidth()).toBe(160_000_000)
  // Ids for three minutes at that rate lie ahead, and two ranges, whichever is more.
  expect(await ask('ensure_partitions()')).toBe(0)
})
