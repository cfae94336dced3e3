/**
 * What a worker is given: by priority and order, of its stages and its run, when it is due; and who is woken for it.
 */
import { submit, submitMany } from '@leasehold/queue'
import { once } from 'node:events'
import { expect, test } from 'vitest'
import { addStage } from './scene.ts'
import { claimed, database, db, exchanged, stage, useWorkers } from './worker-scene.ts'

useWorkers()

test('higher priorities are claimed first, and equal ones in order of submission', async () => {
  const priorities = [5, 0, 9, 5, 8, 0, 9]
  const ids = await submitMany(
    db,
    stage,
    priorities.map((priority) => ({ payload: {}, priority })),
  )
  const order: string[] = []
  for (let i = 0; i < ids.length; i++) order.push((await claimed(1))[0]!.taskId)
  expect(order).toEqual([2, 6, 4, 0, 3, 1, 5].map((i) => ids[i]))
})

test('a worker of several stages gets of each no more than it asked for', async () => {
  const other = await addStage(db)
  await submitMany(
    db,
    stage,
    Array.from({ length: 5 }, () => ({ payload: {} })),
  )
  await submitMany(
    db,
    other,
    Array.from({ length: 5 }, () => ({ payload: {} })),
  )
  const rows = await claimed(0, { stages: [other, stage, 'no_such_stage'], limits: [2, 3, 4] })
  expect(rows.map((row) => row.stage)).toEqual([other, other, stage, stage, stage])
  expect(await claimed(0)).toEqual([])
})

test('a worker restricted to a run passes all others by', async () => {
  await submitMany(
    db,
    stage,
    ['one', 'two', 'one'].map((runId) => ({ payload: { runId }, runId })),
  )
  await submit(db, stage, {})
  const rows = await claimed(10, { runId: 'one' })
  expect(rows.map((row) => row.payload)).toEqual([{ runId: 'one' }, { runId: 'one' }])
  expect(await claimed(10)).toHaveLength(2)
})

test('due tasks are promoted in order, and a look says when the next one is due', async () => {
  const { rows } = await db.query<{ now: Date }>('select leasehold.clock() as now')
  const after = (ms: number): Date => new Date(rows[0]!.now.getTime() + ms)
  const late = await submit(db, stage, {}, { runAt: after(120_000) })
  const early = await submit(db, stage, {}, { runAt: after(60_000) })
  const look = await exchanged({ stages: [stage], limits: [5], promote: true })
  expect(look.claimed).toEqual([])
  expect(look.receipt.due_in_ms).toBeGreaterThan(0)
  expect(look.receipt.due_in_ms).toBeLessThanOrEqual(60_000)
  await database.advance(120_001)
  const order = [(await claimed(1, { promote: true }))[0]!.taskId, (await claimed(1))[0]!.taskId]
  expect(order).toEqual([early, late])
})

test('a submission wakes who sleeps, and calls nobody when all are busy', async () => {
  const listener = await database.client()
  await listener.query(`listen "leasehold:${stage}"`)
  const heard: string[] = []
  listener.on('notification', ({ channel, payload }) => heard.push(`${channel}${payload ?? ''}`))
  await submit(db, stage, {})
  await listener.query('select 1')
  expect(heard).toEqual([])

  await exchanged({ stages: [stage], limits: [1], wakeMs: 60_000 })
  const call = once(listener, 'notification')
  await submitMany(
    db,
    stage,
    Array.from({ length: 50 }, () => ({ payload: {} })),
  )
  await call
  await exchanged({ stages: [stage], limits: [1], wakeMs: 0 })
  await submit(db, stage, {})
  await listener.query('select 1')
  expect(heard).toEqual([`leasehold:${stage}`])
})
