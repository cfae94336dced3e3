/**
 * Workers that are asked to drain, that do not come round, that have lost an answer or died; and the stages they register.
 */
import {
  advanceFloors,
  defineStage,
  heartbeat,
  leave,
  monitorSilenceMs,
  registerStage,
  releaseDeadWorkers,
  returnStrays,
  submitMany,
} from '@leasehold/queue'
import { expect, test } from 'vitest'
import { z } from 'zod'
import { insertTask, stateOf } from './scene.ts'
import { claimed, database, db, exchanged, register, stage, worker, useWorkers } from './worker-scene.ts'

useWorkers()

test('a worker asked to drain is told by exchange and by beat', async () => {
  const { rows } = await db.query<{ slot: string }>('select slot from leasehold.workers where id = $1', [
    worker,
  ])
  await db.query('select leasehold.drain_slot($1)', [rows[0]!.slot])
  expect((await exchanged({})).receipt).toEqual({ worker: 'live', drain: true })
  const beat = { workerId: worker, loopAgeMs: 0, oldestFence: null, running: 0, draining: true, renew: true }
  expect(await heartbeat(db, beat)).toMatchObject({ state: 'live', drain: true })
})

test('a beat that does not renew reports a wedged loop and lets the lease run out', async ({
  onTestFinished,
}) => {
  await database.stopClock()
  onTestFinished(() => database.startClock())
  const other = await register([stage], 30_000)
  const beat = {
    workerId: other,
    loopAgeMs: 20_000,
    oldestFence: null,
    running: 1,
    draining: false,
    renew: false,
  }
  await database.advance(20_000)
  expect(await heartbeat(db, beat)).toMatchObject({ state: 'live' })
  await database.advance(11_000)
  expect(await releaseDeadWorkers(db)).toMatchObject([{ workerId: other, released: [], quarantined: [] }])
  expect(await heartbeat(db, { ...beat, renew: true })).toMatchObject({ state: 'ended', reason: 'lost' })
  expect(await heartbeat(db, { ...beat, workerId: '00000000-0000-4000-8000-000000000000' })).toMatchObject({
    state: 'unknown',
  })
})

test('leases that a lost answer left behind are given back, and what the worker knows of is kept', async () => {
  await submitMany(db, stage, [{ payload: {} }, { payload: {} }, { payload: {} }])
  const rows = await claimed(3)
  const { taskId: known, fence } = rows[1]!
  const strays = rows.map((row) => row.taskId).filter((id) => id !== known)
  expect((await returnStrays(db, worker, [{ taskId: known, fence }]))?.toSorted()).toEqual(strays.toSorted())
  expect(await stateOf(db, known)).toBe('running')
  expect((await claimed(3)).map((row) => `${row.taskId} attempt ${row.attempt}`).toSorted()).toEqual(
    strays.map((id) => `${id} attempt 1`).toSorted(),
  )
  const ended = await register([stage])
  await leave(db, ended, 'over')
  expect(await returnStrays(db, ended, [])).toBeNull()
})

test('a dead worker is reported with what it held', async () => {
  const other = await register([stage], 30_000)
  const id = await insertTask(db, stage)
  await exchanged({ workerId: other, stages: [stage], limits: [1] })
  await database.advance(31_000)
  expect(await releaseDeadWorkers(db)).toMatchObject([
    { workerId: other, stages: [stage], host: 'host.test', pid: 1, released: [id], quarantined: [] },
  ])
  expect(await releaseDeadWorkers(db)).toEqual([])
})

test('registering a stage again changes what is named and keeps the rest, a pause too', async () => {
  const definition = {
    name: 'settings',
    payload: z.unknown(),
    priority: 7,
    timeout: '5 min' as const,
    retry: { attempts: 9, from: '1 s' as const, to: '2 s' as const },
    limits: { perKey: 4, crashes: 5 },
    expectedWorkers: 2,
    run: () => Promise.resolve(),
  }
  await registerStage(db, defineStage(definition))
  await db.query(`select leasehold.pause_stage('settings')`)
  await registerStage(
    db,
    defineStage({ name: 'settings', payload: z.unknown(), priority: 8, run: definition.run }),
  )
  const { rows } = await db.query(
    `select priority, max_attempts, timeout::text, backoff_min::text, backoff_max::text, key_limit, max_crashes,
       expected_workers, paused_until = 'infinity' as paused from leasehold.stages where name = 'settings'`,
  )
  expect(rows).toEqual([
    {
      priority: 8,
      max_attempts: 9,
      timeout: '00:05:00',
      backoff_min: '00:00:01',
      backoff_max: '00:00:02',
      key_limit: 4,
      max_crashes: 5,
      expected_workers: 2,
      paused: true,
    },
  ])
})

test('floors advance, and nobody has watched yet', async () => {
  expect(await advanceFloors(db, 0)).toBeGreaterThanOrEqual(0)
  expect(await monitorSilenceMs(db)).toBeNull()
})
