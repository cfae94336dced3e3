/**
 * Attempts that end without their handlers: timeouts, handlers that do not listen or come back late, a heart that stops.
 */
import type { Worker } from 'node:worker_threads'
import { ConfigError, defineStage, type TaskContext } from '@leasehold/queue'
import { startRunner } from '@leasehold/runner'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { z } from 'zod'
import type { TestDatabase } from '../../../test/harness/database.ts'
import {
  attemptsOf,
  createScene,
  endOf,
  endsOf,
  expectSound,
  insertTasks,
  RememberingLog,
  startTestRunner,
} from './scene.ts'

let db: TestDatabase
beforeEach(async () => {
  db = await createScene()
})
afterEach(async () => {
  await expectSound(db.pool)
  await db.drop()
})

const payload = z.object({})

function aborted(ctx: TaskContext): Promise<{ why: string }> {
  return new Promise((resolve) =>
    ctx.signal.addEventListener('abort', () => resolve(ctx.signal.reason as { why: string })),
  )
}

test('a timeout aborts the signal, fails the attempt and gives the place back', async () => {
  const whys: string[] = []
  const stage = defineStage({
    name: 'slow',
    payload,
    timeout: 200,
    retry: { attempts: 2, from: 10, to: 20 },
    async run(ctx) {
      whys.push((await aborted(ctx)).why)
      throw ctx.signal.reason
    },
  })
  const runner = await startTestRunner(db, { stages: [stage] })
  const [id, next] = await insertTasks(db.pool, 'slow', [{}, {}])
  const task = await endOf(db.pool, id!)
  expect(task).toMatchObject({ state: 'dead', attempt: 2, lastError: { code: 'timeout' } })
  expect((await attemptsOf(db.pool, id!)).map((a) => [a.outcome, a.error?.code])).toEqual([
    ['retry', 'timeout'],
    ['dead', 'timeout'],
  ])
  await endOf(db.pool, next!) // the one place there is was given back
  expect(whys).toEqual(['timeout', 'timeout', 'timeout', 'timeout'])
  expect(runner.counts.stuck).toBe(0)
  expect(runner.log.of('handler.stuck')).toEqual([])
  await runner.drain()
})

test("a task's own timeout goes before its stage's", async () => {
  const stage = defineStage({
    name: 'slow',
    payload,
    timeout: '1 h',
    retry: { attempts: 1 },
    async run(ctx) {
      await aborted(ctx)
    },
  })
  const runner = await startTestRunner(db, { stages: [stage] })
  const { rows } = await db.pool.query<{ id: string }>(
    "insert into leasehold.tasks (stage, timeout) values ('slow', interval '100 milliseconds') returning id::text",
  )
  expect(await endOf(db.pool, rows[0]!.id)).toMatchObject({ state: 'dead', lastError: { code: 'timeout' } })
  await runner.drain()
})

test('a timeout comes on time also while the database does not answer', async () => {
  const why = Promise.withResolvers<string>()
  const entered = Promise.withResolvers<void>()
  const stage = defineStage({
    name: 'slow',
    payload,
    timeout: 500,
    retry: { attempts: 1 },
    async run(ctx) {
      entered.resolve()
      why.resolve((await aborted(ctx)).why)
    },
  })
  const runner = await startTestRunner(db, { stages: [stage], concurrency: 2 })
  const [id] = await insertTasks(db.pool, 'slow', [{}])
  await entered.promise
  const locker = await db.client()
  await locker.query('begin')
  await locker.query('lock table leasehold.leases in access exclusive mode')
  await insertTasks(db.pool, 'slow', [{}]) // the next exchange hangs on it
  expect(await why.promise).toBe('timeout')
  await locker.query('commit')
  expect(await endOf(db.pool, id!)).toMatchObject({ state: 'dead', lastError: { code: 'timeout' } })
  await runner.stopNow()
})

test('a handler that ignores its abort signal keeps its place for the grace, then loses it, and its late return changes nothing', async () => {
  const gate = Promise.withResolvers<void>()
  const log = new RememberingLog()
  const givenUp: number[] = []
  const stage = defineStage({
    name: 'deaf',
    payload,
    concurrency: 1,
    retry: { attempts: 1 },
    async run() {
      givenUp.push(log.of('handler.stuck').length)
      if (givenUp.length === 1) await gate.promise
    },
  })
  const runner = await startTestRunner(db, { stages: [stage], abortGraceMs: 700, log })
  const { rows } = await db.pool.query<{ id: string }>(
    `insert into leasehold.tasks (stage, timeout) values ('deaf', '100 milliseconds'), ('deaf', '1 hour') returning id::text`,
  )
  const [deaf, next] = rows.map((row) => row.id)
  expect(await endOf(db.pool, deaf!)).toMatchObject({ state: 'dead', lastError: { code: 'timeout' } })
  expect(runner.counts.stuck).toBe(1)
  await log.first('handler.stuck')
  expect((await endOf(db.pool, next!)).state).toBe('done')
  expect(givenUp).toEqual([0, 1]) // the next one came when it had been given up, and not before
  gate.resolve()
  await log.first('handler.late')
  expect(runner.counts.stuck).toBe(0)
  await endsOf(db.pool, await insertTasks(db.pool, 'deaf', [{}, {}]))
  expect(log.of('handler.stuck')).toMatchObject([{ taskId: deaf }])
  expect(log.of('handler.late')).toMatchObject([{ taskId: deaf }])
  expect((await attemptsOf(db.pool, deaf!)).map((a) => a.outcome)).toEqual(['dead'])
  await runner.drain()
})

/** Not every handler is an async function: what it returns may be a promise of its own making. */
function oddStage(odd: () => Promise<void>, timeout = 60_000) {
  return defineStage({
    name: 'odd',
    payload: z.object({ odd: z.boolean() }),
    concurrency: 2,
    timeout,
    retry: { attempts: 1 },
    run: (ctx) => (ctx.payload.odd ? odd() : Promise.resolve()),
  })
}

function oddPromise(member: 'then' | 'constructor', is: PropertyDescriptor): Promise<void> {
  return Object.defineProperty(Promise.resolve(), member, is)
}

test.each<[string, () => Promise<void>]>([
  ['throws when it is waited for', () => oddPromise('then', { value: refuse })],
  ['throws when it is looked at', () => oddPromise('constructor', { get: refuse })],
])('a handler whose promise %s fails its own attempt and harms no other', async (_what, odd) => {
  const runner = await startTestRunner(db, { stages: [oddStage(odd)] })
  const ids = await insertTasks(
    db.pool,
    'odd',
    Array.from({ length: 40 }, (_, i) => ({ odd: i % 4 === 0 })),
  )
  for (const [i, task] of (await endsOf(db.pool, ids)).entries()) {
    expect(task).toMatchObject(
      i % 4 === 0 ? { state: 'dead', lastError: { message: 'mine' } } : { state: 'done' },
    )
  }
  await runner.drain()
})

function refuse(): never {
  throw new Error('mine')
}

function twice(done: () => void, failed: (error: Error) => void): void {
  setTimeout(() => {
    done()
    failed(new Error('and again'))
  }, 600)
}

test('a handler that comes back twice after its timeout is counted as back once', async () => {
  const runner = await startTestRunner(db, {
    stages: [oddStage(() => oddPromise('then', { value: twice }), 100)],
  })
  const [id, next] = await insertTasks(db.pool, 'odd', [{ odd: true }, { odd: false }])
  expect(await endOf(db.pool, id!)).toMatchObject({ state: 'dead', lastError: { code: 'timeout' } })
  await expect.poll(() => runner.counts.stuck).not.toBe(1)
  expect(runner.counts.stuck).toBe(0)
  expect(await endOf(db.pool, next!)).toMatchObject({ state: 'done' })
  await runner.drain()
})

test('what ends within its timeout and is settled after it is a timeout, never a lease that stays', async () => {
  const entered = Promise.withResolvers<void>()
  const gate = Promise.withResolvers<void>()
  const stage = defineStage({
    name: 'close',
    payload,
    timeout: '5 s',
    retry: { attempts: 1 },
    async run() {
      entered.resolve()
      await gate.promise
    },
  })
  const runner = await startTestRunner(db, { stages: [stage] })
  const [id] = await insertTasks(db.pool, 'close', [{}])
  await entered.promise
  await db.advance(6000) // the database's clock decides
  gate.resolve()
  expect(await endOf(db.pool, id!)).toMatchObject({ state: 'dead', lastError: { code: 'timeout' } })
  expect(runner.log.of('lease.lost')).toEqual([])
  await runner.drain()
})

test('a settlement under a lease that is gone is refused, counted and said in one line', async () => {
  const gate = Promise.withResolvers<void>()
  const stage = defineStage({ name: 'gated', payload, concurrency: 3, run: () => gate.promise })
  const runner = await startTestRunner(db, { stages: [stage] })
  const ids = await insertTasks(db.pool, 'gated', [{}, {}, {}])
  await expect.poll(() => runner.counts.held).toBe(3)
  const client = await db.client()
  await client.query('begin') // its worker is not told before it asks
  await client.query('delete from leasehold.leases')
  await client.query(
    `insert into leasehold.attempts (task_id, fence, ended_at, attempt, final, outcome)
     select id, nextval('leasehold.fences'), leasehold.clock(), 1, true, 'cancelled' from leasehold.tasks`,
  )
  await client.query('commit')
  gate.resolve()
  expect(await runner.log.first('lease.lost')).toMatchObject({
    count: 3,
    taskIds: expect.arrayContaining(ids),
  })
  expect(runner.counts).toMatchObject({ refused: 3, settled: 0, held: 0 })
  expect(runner.log.of('lease.lost')).toHaveLength(1)
  await runner.drain()
})

test('after an abort for a lost worker no more handlers run than the concurrency allows', async () => {
  const gates: (() => void)[] = []
  let running = 0
  let most = 0
  const stage = defineStage({
    name: 'deaf',
    payload,
    concurrency: 2,
    async run() {
      most = Math.max(most, ++running)
      await new Promise<void>((go) => gates.push(go))
      running -= 1
    },
  })
  const runner = await startTestRunner(db, { stages: [stage] })
  const ids = await insertTasks(db.pool, 'deaf', [{}, {}, {}])
  await expect.poll(() => running).toBe(2)
  const first = runner.workerId
  await db.pool.query("select leasehold.end_worker($1, 'lost')", [first])
  await runner.log.first('worker.ended')
  expect(running).toBe(2) // they do not listen
  for (const go of gates.splice(0)) go()
  await expect.poll(() => running, { timeout: 45_000 }).toBe(2)
  expect(runner.workerId).not.toBe(first)
  const pump = setInterval(() => gates.splice(0).forEach((go) => go()), 10)
  await endsOf(db.pool, ids)
  clearInterval(pump)
  expect(most).toBe(2)
  await runner.drain()
})

test('runners whose heartbeat thread dies give back what runs, leave, and end with the fault', async () => {
  const threads: Worker[] = []
  const remember = (thread: Worker) => void threads.push(thread)
  process.on('worker', remember)
  const [whys, entered]: [string[], string[]] = [[], []]
  const stage = defineStage({
    name: 'slow',
    payload,
    concurrency: 1,
    async run(ctx) {
      entered.push(ctx.task.id)
      whys.push((await aborted(ctx)).why)
    },
  })
  const runners = [
    await startTestRunner(db, { stages: [stage], slot: 'slow@1' }),
    await startTestRunner(db, { stages: [stage], slot: 'slow@2' }),
  ]
  process.off('worker', remember)
  const ids = await insertTasks(db.pool, 'slow', [{}, {}])
  await expect.poll(() => entered.length).toBe(2)
  expect(threads).toHaveLength(1)
  await threads[0]!.terminate()
  for (const runner of runners) await expect(runner.ended).rejects.toThrow('the heartbeat thread ended')
  expect(whys).toEqual(['drain', 'drain'])
  for (const id of ids) expect((await attemptsOf(db.pool, id)).map((a) => a.outcome)).toEqual(['released'])
  const { rows } = await db.pool.query('select distinct end_reason from leasehold.workers')
  expect(rows).toEqual([{ end_reason: 'graceful-shutdown' }])
})

test('settings that cannot work are refused all at once, before anything is opened', async () => {
  const stage = defineStage({ name: 'plain', payload, async run() {} })
  const starting = startRunner({
    connectionString: db.url,
    stages: [stage, stage],
    slot: 'with spaces',
    log: new RememberingLog(),
    leaseTtlMs: 1000,
    beatIntervalMs: 400,
    maxPollMs: 5,
    concurrency: 0,
  })
  await expect(starting).rejects.toBeInstanceOf(ConfigError)
  const { problems } = (await starting.catch((error: unknown) => error)) as ConfigError
  expect(problems.map(({ name }) => name).sort()).toEqual([
    'beatIntervalMs',
    'concurrency',
    'maxPollMs',
    'slot',
    'stages',
  ])
})

test('a start that is called off holds no slot', async () => {
  const stage = defineStage({ name: 'plain', payload, async run() {} })
  const options = { connectionString: db.url, stages: [stage], slot: 'plain@1', log: new RememberingLog() }
  for (const delayMs of [0, 5, 10, 20, 40]) {
    const off = new AbortController()
    const starting = startRunner(options, off.signal).then(
      (runner) => runner.drain(),
      (error: unknown) => expect(error).toBe(off.signal.reason),
    )
    setTimeout(() => off.abort(), delayMs)
    await starting
    const { rows } = await db.pool.query('select * from leasehold.workers where ended_at is null')
    expect(rows).toEqual([])
  }
})
