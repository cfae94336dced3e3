/**
 * The workers of one process beat in one thread, on a few connections, each until it leaves.
 */
import { once } from 'node:events'
import type { Worker } from 'node:worker_threads'
import { defineStage } from '@leasehold/queue'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { z } from 'zod'
import type { TestDatabase } from '../../../test/harness/database.ts'
import { createScene, endsOf, eventually, expectSound, insertTasks, startTestRunner } from './scene.ts'

let db: TestDatabase
const threads: Worker[] = []
const remember = (thread: Worker): void => void threads.push(thread)
beforeEach(async () => {
  db = await createScene()
  threads.length = 0
  process.on('worker', remember)
})
afterEach(async () => {
  process.off('worker', remember)
  await expectSound(db.pool)
  await db.drop()
})

const stage = defineStage({ name: 'plain', payload: z.object({}), async run() {} })

async function beatConnections({ pool }: TestDatabase): Promise<number> {
  const { rows } = await pool.query<{ n: number }>(
    `select count(*)::integer as n from pg_stat_activity
     where datname = current_database() and application_name like 'leasehold beat%'`,
  )
  return rows[0]!.n
}

/** When the worker of a slot was last heard of, as text. */
async function lastBeat(slot: string): Promise<string> {
  const { rows } = await db.pool.query<{ at: string }>(
    'select beat_at::text as at from leasehold.workers where slot = $1 and ended_at is null',
    [slot],
  )
  return rows[0]!.at
}

test('twenty workers share a thread and some connections; the last one beats on when the others have left', async () => {
  const beats = Array.from({ length: 20 }, () => 0)
  const runners = []
  for (const [i] of beats.entries())
    runners.push(
      await startTestRunner(db, { stages: [stage], slot: `plain@${i}`, onBeat: () => void (beats[i]! += 1) }),
    )
  await endsOf(
    db.pool,
    await insertTasks(
      db.pool,
      'plain',
      Array.from({ length: 200 }, () => ({})),
    ),
  )
  await eventually(async () => beats.every((count) => count >= 3))
  expect(threads).toHaveLength(1)
  expect(await beatConnections(db)).toBeGreaterThan(0)
  expect(await beatConnections(db)).toBeLessThanOrEqual(8)

  await Promise.all(runners.slice(1).map((runner) => runner.drain()))
  const [before, others] = [await lastBeat('plain@0'), beats.slice(1)]
  await eventually(async () => (await lastBeat('plain@0')) > before)
  expect(beats.slice(1)).toEqual(others)

  const over = once(threads[0]!, 'exit')
  await runners[0]!.drain()
  await over
  await eventually(async () => (await beatConnections(db)) === 0)
})

test('a worker that starts when the last one has left has a thread again', async () => {
  for (let i = 0; i < 3; i++) {
    const runner = await startTestRunner(db, { stages: [stage] })
    await endsOf(db.pool, await insertTasks(db.pool, 'plain', [{}]))
    await runner.drain()
  }
  expect(threads).toHaveLength(3)
})

test('workers of two databases beat side by side, and one that cannot reach its own does not hold up the other', async () => {
  const other = await createScene()
  const beats = [0, 0]
  const here = await startTestRunner(db, { stages: [stage], onBeat: () => void (beats[0]! += 1) })
  const there = await startTestRunner(other, { stages: [stage], onBeat: () => void (beats[1]! += 1) })
  await eventually(async () => beats[0]! >= 2 && beats[1]! >= 2)
  expect(threads).toHaveLength(1)
  // A row that is locked makes beats hang, as a database in trouble would.
  const holder = await other.pool.connect()
  await holder.query('begin')
  await holder.query('select from leasehold.workers for update')
  const [own, held] = [...beats]
  await eventually(async () => beats[0]! >= own! + 5)
  expect(beats[1]!).toBeLessThanOrEqual(held! + 1) // one may have been under way
  await holder.query('rollback')
  holder.release()
  await eventually(async () => beats[1]! > held! + 1)
  // Its connections end with it, although the thread goes on.
  await there.drain()
  await eventually(async () => (await beatConnections(other)) === 0)
  expect(await beatConnections(db)).toBeGreaterThan(0)
  await here.drain()
  await expectSound(other.pool)
  await other.drop()
})
