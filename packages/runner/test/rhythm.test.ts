/**
 * A runner's rhythm: how often it beats idle and at work, how seldom it may look, and how long it leaves a database in
 * trouble alone, without ever looking like a loop that stands still.
 */
import { defineStage } from '@leasehold/queue'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { z } from 'zod'
import type { TestDatabase } from '../../../test/harness/database.ts'
import { createScene, endOf, endsOf, eventually, expectSound, insertTasks, startTestRunner } from './scene.ts'

let db: TestDatabase
beforeEach(async () => {
  db = await createScene()
})
afterEach(async () => {
  await expectSound(db.pool)
  await db.drop()
})

const idle = defineStage({ name: 'idle', payload: z.object({}), async run() {} })

test('a worker beats more often while it holds a task, from the next beat on', async () => {
  const { promise: gate, resolve: letGo } = Promise.withResolvers<void>()
  const stage = defineStage({ name: 'gated', payload: z.object({}), run: () => gate })
  const beats: number[] = []
  const runner = await startTestRunner(db, {
    stages: [stage],
    leaseTtlMs: 9000,
    beatIntervalMs: 3000,
    workingBeatIntervalMs: 200,
    onBeat: () => beats.push(performance.now()),
  })
  const gaps = (): number[] => beats.slice(1).map((at, i) => at - beats[i]!)
  await eventually(async () => beats.length >= 3) // one at the start, and one idle interval between the others
  // Half of an interval may be lost to a slow moment: the two rhythms are far apart.
  expect(gaps()[1]).toBeGreaterThan(1500)
  const [id] = await insertTasks(db.pool, 'gated', [{}])
  await eventually(async () => beats.length >= 7)
  expect(Math.min(...gaps().slice(2))).toBeLessThan(1500)
  letGo()
  expect((await endOf(db.pool, id!)).state).toBe('done')
  await runner.drain()
})

test('a runner that looks seldom turns its loop all the same, and is not taken for wedged', async () => {
  const turnedAt: number[] = []
  const runner = await startTestRunner(db, {
    stages: [idle],
    listen: false,
    maxPollMs: 1000,
    wedgeLimitMs: 500,
    onTurn: () => turnedAt.push(performance.now()),
  })
  await endsOf(db.pool, await insertTasks(db.pool, 'idle', [{}]))
  const looksBefore = runner.counts.exchanges
  const turnsBefore = turnedAt.length
  await eventually(async () => turnedAt.length - turnsBefore >= 60)
  expect(runner.counts.exchanges - looksBefore).toBeLessThan(30)
  // On a machine that has no time for it a loop does stand still; of no other is it said.
  const stoodStill = turnedAt.filter((at, i) => i > 0 && at - turnedAt[i - 1]! > 450)
  expect(stoodStill.length).toBeLessThan(10)
  expect(runner.log.of('loop.wedged').length).toBeLessThanOrEqual(stoodStill.length)
  await runner.drain()
})

test('a database that refuses is left alone for as long as was asked for, and a runner that waits drains at once', async () => {
  await db.pool.query(`
    create sequence public.asked_by_eager; create sequence public.asked_by_patient;
    grant usage on all sequences in schema public to public;
    alter function leasehold.exchange(uuid, bigint[], bigint[], jsonb, jsonb, jsonb, text[], integer[], text, boolean, integer, boolean)
      rename to held_back;
    create function leasehold.exchange(p_worker uuid, bigint[], bigint[], jsonb, jsonb, jsonb, text[], integer[], text, boolean, integer, boolean)
    returns table (task_id bigint, fence bigint, stage text, attempt smallint, payload text, extra text) language plpgsql as $$
    begin
      perform nextval('public.asked_by_' || (select split_part(slot, '@', 1) from leasehold.workers where id = p_worker));
      raise 'not now' using errcode = '55P03';
    end $$`)
  const eager = await startTestRunner(db, { stages: [idle], slot: 'eager@1', maxRetryMs: 100 })
  const patient = await startTestRunner(db, { stages: [idle], slot: 'patient@1', maxRetryMs: 300_000 })
  const asked = async (by: string): Promise<number> =>
    Number((await db.pool.query(`select last_value from public.asked_by_${by}`)).rows[0].last_value)

  await eventually(async () => (await asked('eager')) >= 60)
  expect((await asked('patient')) * 3).toBeLessThan(await asked('eager'))
  await Promise.all([eager.drain(), patient.drain()])
  const { rows } = await db.pool.query('select slot, end_reason from leasehold.workers order by slot')
  expect(rows.map((row) => row.end_reason)).toEqual(['graceful-shutdown', 'graceful-shutdown'])
})
