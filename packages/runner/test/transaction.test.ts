/**
 * What a handler does in its settling transaction, and the children it submits: all with the settlement or not at all.
 */
import {
  cancelTask,
  defineStage,
  LeaseLostError,
  type Outcome,
  taskLogs,
  type TaskContext,
  TaskEndedError,
} from '@leasehold/queue'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { z } from 'zod'
import type { TestDatabase } from '../../../test/harness/database.ts'
import { attemptsOf, createScene, endOf, endsOf, expectSound, insertTasks, startTestRunner } from './scene.ts'

type Handler = (ctx: TaskContext) => unknown

const handlers = new Map<string, Handler>()
const flexible = defineStage({
  name: 'flexible',
  payload: z.object({ handler: z.string() }),
  concurrency: 20,
  retry: { attempts: 2, from: 20, to: 40 },
  run: async (ctx) => (await handlers.get(ctx.payload.handler)!(ctx)) as Outcome,
})
/** No JSON can say this. */
const circular: Record<string, unknown> = {}
circular['itself'] = circular
const child = defineStage({ name: 'child', payload: z.object({ n: z.number() }), async run() {} })

let db: TestDatabase
let runner: Awaited<ReturnType<typeof startTestRunner>>
beforeAll(async () => {
  db = await createScene()
  await db.pool.query("select leasehold.register_stage('child')")
  await db.pool.query("insert into leasehold.tasks (stage, key) values ('child', 'taken')")
  runner = await startTestRunner(db, { stages: [flexible] })
})
afterAll(async () => {
  await runner.drain()
  await expectSound(db.pool)
  await db.drop()
})

async function submitFor(handler: Handler, options: { runId?: string } = {}): Promise<string> {
  const name = expect.getState().currentTestName!
  handlers.set(name, handler)
  const { rows } = await db.pool.query<{ id: string }>(
    "insert into leasehold.tasks (stage, payload, run_id) values ('flexible', jsonb_build_object('handler', $1::text), $2) returning id::text",
    [name, options.runId ?? null],
  )
  return rows[0]!.id
}

async function childrenWith(n: number): Promise<{ run_id: string | null; priority: number | null }[]> {
  const { rows } = await db.pool.query<{ run_id: string | null; priority: number | null }>(
    "select run_id, priority from leasehold.tasks where stage = 'child' and payload ->> 'n' = $1::text",
    [n],
  )
  return rows
}

async function effectsOf(id: string): Promise<number> {
  const { rowCount } = await db.pool.query('select from public.effects where task_id = $1', [id])
  return rowCount!
}

async function write(ctx: TaskContext): Promise<void> {
  await ctx.db.query('insert into public.effects values ($1, $2, 1)', [ctx.task.id, ctx.fence])
}

const writing = (ctx: TaskContext, outcome?: Outcome) => async (tx: TaskContext['db']) => {
  await tx.query('insert into public.effects values ($1, $2, 1)', [ctx.task.id, ctx.fence])
  return outcome
}

test('effects, children and settlement of a transaction are there together', async () => {
  const id = await submitFor((ctx) => {
    ctx.submit(child, { n: 1 })
    return ctx.transaction(writing(ctx, { outcome: 'done', result: { ok: true } }))
  })
  expect(await endOf(db.pool, id)).toMatchObject({ state: 'done', attempt: 1, result: { ok: true } })
  expect(await effectsOf(id)).toBe(1)
  expect(await childrenWith(1)).toHaveLength(1)
})

test('log lines said before and in a transaction are stored with it', async () => {
  const id = await submitFor((ctx) => {
    ctx.log.info('before')
    return ctx.transaction(async () => ctx.log.info('within'))
  })
  await endOf(db.pool, id)
  expect((await taskLogs(db.pool, id)).map((line) => line.message)).toEqual(['before', 'within'])
})

test('what is thrown in a transaction rolls its effects back and fails the attempt', async () => {
  const id = await submitFor((ctx) =>
    ctx.transaction(async (tx) => {
      ctx.submit(child, { n: 2 })
      await writing(ctx)(tx)
      throw new Error('changed my mind')
    }),
  )
  expect(await endOf(db.pool, id)).toMatchObject({
    state: 'dead',
    attempt: 2,
    lastError: { message: 'changed my mind' },
  })
  expect(await effectsOf(id)).toBe(0)
  expect(await childrenWith(2)).toEqual([])
})

test('a transaction that ends the task as dead keeps its effects and submits no children', async () => {
  const id = await submitFor((ctx) => {
    ctx.submit(child, { n: 3 })
    return ctx.transaction(writing(ctx, { outcome: 'dead', reason: 'recorded and over' }))
  })
  expect(await endOf(db.pool, id)).toMatchObject({ state: 'dead', attempt: 1 })
  expect(await effectsOf(id)).toBe(1)
  expect(await childrenWith(3)).toEqual([])
})

test('a transaction whose outcome is none rolls back', async () => {
  const id = await submitFor((ctx) => ctx.transaction(writing(ctx, { outcome: 'finished' } as never)))
  expect(await endOf(db.pool, id)).toMatchObject({
    state: 'dead',
    attempt: 1,
    lastError: { code: 'outcome_unknown' },
  })
  expect(await effectsOf(id)).toBe(0)
})

test('a handler that settled itself may return what it likes', async () => {
  const id = await submitFor(async (ctx) => {
    await ctx.transaction(writing(ctx))
    return { outcome: 'retry', reason: 'too late for that' }
  })
  expect(await endOf(db.pool, id)).toMatchObject({ state: 'done', attempt: 1 })
  expect(await effectsOf(id)).toBe(1)
})

test('a second transaction of the same attempt is refused', async () => {
  const errors: unknown[] = []
  const id = await submitFor(async (ctx) => {
    await ctx.transaction(writing(ctx))
    await ctx.transaction(writing(ctx)).catch((error: unknown) => errors.push(error))
  })
  await endOf(db.pool, id)
  expect(errors).toEqual([expect.any(LeaseLostError)])
  expect(await effectsOf(id)).toBe(1)
})

test('when the lease is gone a transaction rolls back and says so, and so does a checkpoint', async () => {
  const errors: unknown[] = []
  const id = await submitFor(async (ctx) => {
    await cancelTask(db.pool, ctx.task.id)
    await ctx.checkpoint('late', async () => 1).catch((error: unknown) => errors.push(error))
    await ctx.transaction(writing(ctx)).catch((error: unknown) => errors.push(error))
  })
  expect(await endOf(db.pool, id)).toMatchObject({ state: 'cancelled' })
  await expect.poll(() => errors.length).toBe(2)
  expect(errors).toEqual([expect.any(LeaseLostError), expect.any(LeaseLostError)])
  expect(errors[1]).toMatchObject({ code: 'LEASE_LOST', taskId: id })
  expect(await effectsOf(id)).toBe(0)
})

test('a cancelled task aborts its handler, and what that still does changes nothing', async () => {
  const entered = Promise.withResolvers<void>()
  const id = await submitFor(async (ctx) => {
    entered.resolve()
    await new Promise((resolve) => ctx.signal.addEventListener('abort', resolve))
    handlers.set('why', () => (ctx.signal.reason as { why: string }).why)
    return { outcome: 'done', result: 'all the same' }
  })
  await entered.promise
  await cancelTask(db.pool, id, 'not wanted')
  await expect.poll(() => handlers.get('why')?.(null as never)).toBe('cancelled')
  expect(await endOf(db.pool, id)).toMatchObject({ state: 'cancelled', result: null })
  expect((await attemptsOf(db.pool, id)).map((a) => a.outcome)).toEqual(['cancelled'])
})

test.each<[string, Outcome | Error]>([
  ['retry', { outcome: 'retry', afterMs: 1, reason: 'x' }],
  ['dead', { outcome: 'dead', reason: 'x' }],
  ['cancel', { outcome: 'cancel', reason: 'x' }],
  ['a throw', new Error('x')],
])('children are submitted only when the task is done, not after %s', async (_what, outcome) => {
  const id = await submitFor((ctx) => {
    ctx.submit(child, { n: 4 })
    if (outcome instanceof Error) throw outcome
    return outcome
  })
  await endOf(db.pool, id)
  expect(await childrenWith(4)).toEqual([])
})

test('children are submitted with their own settings and belong to the run of their parent', async () => {
  const id = await submitFor(
    (ctx) => {
      ctx.submit(child, { n: 5 }, { priority: 8 })
      ctx.submit('child', { n: 5 }, { runId: 'another', key: 'five' })
    },
    { runId: 'the-run' },
  )
  expect((await endOf(db.pool, id)).state).toBe('done')
  expect(await childrenWith(5)).toEqual([
    { run_id: 'the-run', priority: 8 },
    { run_id: 'another', priority: null },
  ])
})

test.each<[string, (ctx: TaskContext) => void, string]>([
  ['a stage that is unknown', (ctx) => ctx.submit('childd', {}), 'LH001'],
  ['a key that is taken', (ctx) => ctx.submit('child', { n: 6 }, { key: 'taken' }), '23505'],
  ['a parent that is missing', (ctx) => ctx.submit('child', { n: 6 }, { dependsOn: ['999999'] }), 'LH003'],
  ['NUL in its payload', (ctx) => ctx.submit('child', { text: '\u0000' }), '22P05'],
  [
    'a payload that does not fit its stage',
    (ctx) => ctx.submit(child, { n: 'six' } as never),
    'PAYLOAD_INVALID',
  ],
  ['a payload that is no JSON', (ctx) => ctx.submit('child', circular), 'TypeError'],
])(
  'a child with %s fails its own parent and not the others in the batch',
  async (_what, submitting, code) => {
    const gate = Promise.withResolvers<void>()
    let waiting = 0
    const good = (ctx: TaskContext): unknown => {
      ctx.submit(child, { n: 7 })
      waiting += 1
      return gate.promise
    }
    handlers.set('good', good)
    const before = (await childrenWith(7)).length
    const bad = await submitFor((ctx) => {
      submitting(ctx)
      return gate.promise
    })
    const neighbours = await insertTasks(
      db.pool,
      'flexible',
      Array.from({ length: 8 }, () => ({ handler: 'good' })),
    )
    await expect.poll(() => waiting).toBe(8)
    gate.resolve() // all end together
    const task = await endOf(db.pool, bad)
    expect(task).toMatchObject({ state: 'dead', lastError: { code } })
    expect((await endsOf(db.pool, neighbours)).map((n) => [n.state, n.attempt])).toEqual(
      neighbours.map(() => ['done', 1]),
    )
    expect(await childrenWith(7)).toHaveLength(before + 8)
  },
)

test('a handler may write without settling, and then its effects are its own business', async () => {
  const id = await submitFor(async (ctx) => {
    await write(ctx)
    if (ctx.attempt === 1) throw new Error('again')
  })
  expect((await endOf(db.pool, id)).attempt).toBe(2)
  expect(await effectsOf(id)).toBe(2)
})

test('handlers that hog all their connections stop neither beats nor claims nor settlements', async () => {
  const gate = Promise.withResolvers<void>()
  let hogging = 0
  handlers.set('hog', (ctx) => ctx.transaction(async () => {
    hogging += 1
    await gate.promise
  })) // prettier-ignore
  handlers.set('light', () => undefined)
  const hogged = await insertTasks(
    db.pool,
    'flexible',
    Array.from({ length: 12 }, () => ({ handler: 'hog' })),
  )
  await expect.poll(() => hogging).toBe(10) // all the connections there are for handlers
  const light = await insertTasks(
    db.pool,
    'flexible',
    Array.from({ length: 20 }, () => ({ handler: 'light' })),
  )
  expect((await endsOf(db.pool, light)).every((task) => task.state === 'done')).toBe(true)
  const { rows } = await db.pool.query<{ at: Date }>('select leasehold.clock() as at')
  await expect
    .poll(
      async () =>
        (await db.pool.query('select from leasehold.workers where beat_at > $1', [rows[0]!.at])).rowCount,
    )
    .toBe(1)
  gate.resolve()
  expect((await endsOf(db.pool, hogged)).map((task) => task.attempt)).toEqual(hogged.map(() => 1))
})

test('a child that comes after the transaction that ended its task is refused, not forgotten', async () => {
  const errors: unknown[] = []
  const id = await submitFor(async (ctx) => {
    ctx.submit(child, { n: 771 })
    const settled = await ctx.transaction(async () => {})
    try {
      ctx.submit(child, { n: 772 })
    } catch (error) {
      errors.push(error)
    }
    return settled
  })
  expect(await endOf(db.pool, id)).toMatchObject({ state: 'done' })
  await expect.poll(() => errors).toEqual([expect.any(TaskEndedError)])
  expect(await childrenWith(771)).toHaveLength(1)
  expect(await childrenWith(772)).toHaveLength(0)
})
