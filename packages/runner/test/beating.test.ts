/**
 * The workers of one process beat in one thread, each on a connection of its own, until it leaves.
 */
import { once } from 'node:events'
import type { Worker } from 'node:worker_threads'
import { defineStage } from '@leasehold/queue'
import type { Runner } from '@leasehold/runner'
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

/** Runners in the slots plain@0 and so on, and how often each of them has beaten. */
async function startMany(count: number): Promise<{ runners: Runner[]; beats: number[] }> {
  const beats = Array.from({ length: count }, () => 0)
  const runners: Runner[] = []
  for (const [i] of beats.entries()) {
    const onBeat = () => void (beats[i]! += 1)
    runners.push(await startTestRunner(db, { stages: [stage], slot: `plain@${i}`, onBeat }))
  }
  return { runners, beats }
}

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

test('twenty workers share a thread; the last one beats on when the others have left', async () => {
  const { runners, beats } = await startMany(20)
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
  expect(await beatConnections(db)).toBe(20)

  await Promise.all(runners.slice(1).map((runner) => runner.drain()))
  await eventually(async () => (await beatConnections(db)) === 1)
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

test('workers whose beats hang hold up no other worker of their process', async () => {
  const { runners, beats } = await startMany(12)
  await eventually(async () => beats.every((count) => count >= 2))
  expect(threads).toHaveLength(1)
  // A row that is locked makes its beats hang, as a connection does that is dead without saying so.
  const holder = await db.pool.connect()
  await holder.query('begin')
  await holder.query("select from leasehold.workers where slot <> 'plain@0' for update")
  const before = [...beats]
  await eventually(async () => beats[0]! >= before[0]! + 5)
  for (const [i, count] of beats.entries()) if (i > 0) expect(count).toBeLessThanOrEqual(before[i]! + 1)
  await holder.query('rollback')
  holder.release()
  await eventually(async () => beats.every((count, i) => count > before[i]! + 1))
  await Promise.all(runners.map((runner) => runner.drain()))
})
