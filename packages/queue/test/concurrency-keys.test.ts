/**
 * Concurrency keys: at most key_limit tasks of a key are admitted at any committed moment, and nobody is left behind.
 *
 * The random run lets eight real sessions do everything at once to a few keys while a ninth counts; its seed is printed.
 * Unique keys are keys.test.ts.
 */
import type { Db } from '@leasehold/queue'
import type { Client } from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import {
  type Lease,
  type Random,
  addStage,
  addWorker,
  claim,
  insertTask,
  problems,
  seeded,
  settle,
  stateOf,
} from './scene.ts'

let database: TestDatabase
let db: Db

beforeAll(async () => {
  database = await createTestDatabase()
  db = database.pool
})
afterAll(() => database.drop())

async function withKey(stage: string, key: string, n: number): Promise<string[]> {
  const ids = []
  for (let i = 0; i < n; i++) ids.push(await insertTask(db, stage, { concurrency_key: key }))
  return ids
}

test('one batch claim takes no more tasks of a key than its limit, and all of what has none', async () => {
  const stage = await addStage(db, { key_limit: 3 })
  const [one, two] = [await addWorker(db, [stage]), await addWorker(db, [stage])]
  await withKey(stage, 'a', 8)
  await withKey(stage, 'b', 8)
  await insertTask(db, stage)
  const leases = await claim(db, one, stage, 50)
  const keys = leases.map((lease) => (lease.extra?.['concurrency_key'] as string) ?? 'none')
  expect(keys.toSorted()).toEqual(['a', 'a', 'a', 'b', 'b', 'b', 'none'])
  expect(await claim(db, two, stage, 50)).toEqual([])
})

test('a key is open again only when the settlement that frees it commits', async () => {
  const stage = await addStage(db)
  const [worker, other] = [await addWorker(db, [stage]), await addWorker(db, [stage])]
  const [, second] = await withKey(stage, 'k', 2)
  const [lease] = await claim(db, worker, stage, 5)
  const session = await database.client()
  await session.query('begin')
  await settle(session, worker, lease!, 'done')
  expect(await claim(db, other, stage, 5)).toEqual([])
  await session.query('commit')
  expect((await claim(db, other, stage, 5)).map((l) => l.taskId)).toEqual([second])
})

const waysToLeave: Record<string, (worker: string, lease: Lease) => Promise<unknown>> = {
  'is done': (worker, lease) => settle(db, worker, lease, 'done'),
  'is dead': (worker, lease) => settle(db, worker, lease, 'fail', { retryable: false }),
  'waits for its retry': (worker, lease) => settle(db, worker, lease, 'fail', { retry_after: '1 hour' }),
  'is snoozed': (worker, lease) => settle(db, worker, lease, 'snooze', { retry_after: '1 hour' }),
  'is cancelled': (_, lease) => db.query('select leasehold.cancel_task($1)', [lease.taskId]),
}

test.each(Object.keys(waysToLeave))('the next task of a key goes when the one before it %s', async (way) => {
  const stage = await addStage(db)
  const worker = await addWorker(db, [stage])
  const [, second] = await withKey(stage, 'k', 2)
  const [lease] = await claim(db, worker, stage, 5)
  await waysToLeave[way]!(worker, lease!)
  expect((await claim(db, worker, stage, 5)).map((l) => l.taskId)).toEqual([second])
})

test('an admitted task that is cancelled before it runs makes room', async () => {
  const stage = await addStage(db)
  const worker = await addWorker(db, [stage])
  const [first, second] = await withKey(stage, 'k', 2)
  await db.query('select leasehold.process_nudges($1)', [[stage]])
  expect([await stateOf(db, first!), await stateOf(db, second!)]).toEqual(['ready', 'waiting'])
  await db.query('select leasehold.cancel_task($1)', [first])
  expect((await claim(db, worker, stage, 5)).map((l) => l.taskId)).toEqual([second])
})

test('a task of a key that its dead worker held is admitted again, ahead of the others', async () => {
  const stage = await addStage(db)
  const first = await addWorker(db, [stage], { slot: 's' })
  const ids = await withKey(stage, 'k', 3)
  expect(await claim(db, first, stage, 5)).toHaveLength(1)
  const second = await addWorker(db, [stage], { slot: 's' })
  expect((await claim(db, second, stage, 5)).map((l) => l.taskId)).toEqual([ids[0]])
})

test('higher priorities of a key are admitted first', async () => {
  const stage = await addStage(db)
  const worker = await addWorker(db, [stage])
  const low = await insertTask(db, stage, { concurrency_key: 'k', priority: 2 })
  const high = await insertTask(db, stage, { concurrency_key: 'k', priority: 8 })
  const order = []
  for (let i = 0; i < 2; i++) {
    const [lease] = await claim(db, worker, stage, 5)
    order.push(lease!.taskId)
    await settle(db, worker, lease!, 'done')
  }
  expect(order).toEqual([high, low])
})

test('two sessions that meet the same new keys in opposite order wait for nobody', async () => {
  const stage = await addStage(db)
  for (const key of ['a', 'b', 'b', 'a']) await insertTask(db, stage, { concurrency_key: key })
  const [one, two] = [await database.client(), await database.client()]
  const nudge = async (session: Client): Promise<number> =>
    (await session.query<{ n: number }>('select leasehold.process_nudges($1, 1) as n', [[stage]])).rows[0]!.n
  await one.query("begin; set local lock_timeout = '10s'")
  await two.query("begin; set local lock_timeout = '10s'")
  expect(await nudge(one)).toBe(1) // a, made and locked
  expect(await nudge(two)).toBe(1) // b, made and locked
  expect(await nudge(one)).toBe(0) // b belongs to the other session
  expect(await nudge(two)).toBe(0)
  await one.query('commit')
  await two.query('commit')
  expect(await claim(db, await addWorker(db, [stage]), stage, 5)).toHaveLength(2)
})

test('nudges that cannot be acted on do not hold up those behind them, and are not lost', async () => {
  const stage = await addStage(db)
  const worker = await addWorker(db, [stage])
  await withKey(stage, 'held', 2)
  const [holder] = await claim(db, worker, stage, 5)
  const session = await database.client()
  await session.query('begin')
  await session.query("select from leasehold.concurrency_keys where concurrency_key = 'held' for update")
  await db.query(
    `insert into leasehold.nudges (stage, concurrency_key) select $1, 'held' from generate_series(1, 450)`,
    [stage],
  )
  const free = await insertTask(db, stage, { concurrency_key: 'free' })
  const found = []
  for (let exchange = 0; exchange < 4; exchange++) found.push(...(await claim(db, worker, stage, 5)))
  expect(found.map((lease) => lease.taskId)).toEqual([free])
  await settle(db, worker, holder!, 'done')
  await session.query('commit')
  expect(await claim(db, worker, stage, 5)).toHaveLength(1)
  const left = await db.query('select from leasehold.nudges where stage = $1', [stage])
  expect(left.rowCount).toBe(0)
})

test('counting a key on an old snapshot is refused', async () => {
  const session = await database.client()
  await session.query('begin isolation level repeatable read')
  await expect(session.query(`select leasehold.process_nudges('{}')`)).rejects.toMatchObject({
    code: 'LH004',
  })
  await session.query('rollback')
})

interface Actor {
  readonly session: Client
  readonly random: Random
  readonly slot: string
  worker: string
  held: Lease[]
}

const keys = ['a', 'b', 'c']

async function act(actor: Actor, stages: string[], known: string[]): Promise<void> {
  const { session, random } = actor
  const stage = random.pick(stages)
  const dice = random.below(100)
  if (dice < 30) {
    const count = 1 + random.below(3)
    const rows = Array.from({ length: count }, () => [random.chance(0.9) ? random.pick(keys) : null])
    const { rows: inserted } = await session.query<{ id: string }>(
      `insert into leasehold.tasks (stage, concurrency_key, priority, max_attempts, run_id)
       select $1, k, $3, 100, 'run' from unnest($2::text[]) k returning id`,
      [stage, rows.flat(), random.below(10)],
    )
    known.push(...inserted.map((row) => row.id))
  } else if (dice < 55) {
    actor.held.push(...(await claim(session, actor.worker, stage, 1 + random.below(5))))
  } else if (dice < 85) {
    const [lease] = actor.held.splice(random.below(actor.held.length), 1)
    if (lease === undefined) return
    const open = random.chance(0.3)
    if (open) await session.query('begin')
    const ending = random.pick(['done', 'done', 'done', 'fail', 'release', 'snooze', 'cancel'] as const)
    await settle(session, actor.worker, lease, ending, {
      retry_after: random.chance(0.5) ? '0' : '1 minute',
      retryable: random.chance(0.8),
    })
    if (open && random.chance(0.3)) actor.held.push(lease)
    if (open) await session.query(actor.held.includes(lease) ? 'rollback' : 'commit')
  } else if (dice < 92) {
    if (known.length > 0) {
      await session.query('select leasehold.cancel_task($1)', [random.pick(known)])
    }
  } else if (dice < 95) {
    if (known.length > 0) await session.query('select leasehold.retry_task($1)', [random.pick(known)])
  } else if (dice < 98) {
    actor.worker = await addWorker(session, stages, { slot: actor.slot, ttl: '1 hour' })
    actor.held = []
  } else {
    await session.query('select leasehold.tidy()')
  }
}

test('whatever eight sessions do at once, no key is ever over its limit and no task is stranded', async () => {
  const random = seeded('eight sessions on three keys')
  const stages = [
    await addStage(db, { max_crashes: 100 }),
    await addStage(db, { key_limit: 3, max_crashes: 100 }),
  ]
  const known: string[] = []
  let over = 0
  const actors = await Promise.all(
    Array.from({ length: 8 }, async (_, i): Promise<Actor> => {
      const slot = `actor-${i}`
      const session = await database.client()
      return {
        session,
        random,
        slot,
        held: [],
        worker: await addWorker(session, stages, { slot, ttl: '1 hour' }),
      }
    }),
  )
  const play = async (actor: Actor): Promise<void> => {
    for (let i = 0; i < 150; i++) await act(actor, stages, known)
    over += 1
  }
  const watch = async (): Promise<void> => {
    while (over < actors.length) {
      const { rows } = await db.query<{ stage: string }>(`
        select h.stage, h.concurrency_key, count(*) from (
          select stage, concurrency_key from leasehold.leases where concurrency_key is not null
          union all select stage, concurrency_key from leasehold.ready where concurrency_key is not null) h
        join leasehold.stages s on s.name = h.stage
        group by h.stage, h.concurrency_key, s.key_limit having count(*) > s.key_limit`)
      expect(rows).toEqual([])
    }
  }
  await Promise.all([...actors.map(play), watch()])
  expect(await problems(db)).toEqual([])

  // All that is left is done by one worker, turn by turn.
  for (const actor of actors) await db.query('select leasehold.leave($1)', [actor.worker])
  await database.advance(3_600_000)
  const last = await addWorker(db, stages, { ttl: '1 hour' })
  for (let moved = 1; moved > 0;) {
    moved = 0
    for (const stage of stages) {
      for (const lease of await claim(db, last, stage, 100)) {
        await settle(db, last, lease, 'done')
        moved += 1
      }
    }
  }
  const { rows } = await db.query<{ state: string }>(
    `select task_id, state from leasehold.task_status where stage = any ($1) and state not in ('done', 'dead', 'cancelled')`,
    [stages],
  )
  expect(rows).toEqual([])
  expect(await problems(db)).toEqual([])
})
