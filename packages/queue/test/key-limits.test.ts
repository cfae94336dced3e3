/**
 * A stage's key_limit is changed while tasks of its keys wait, are admitted, run: it counts from that commit on.
 *
 * The races are those of the change with each thing that puts a task into ready or takes it out; the random run does all of
 * it at once and prints its seed. What a limit that stands still promises is concurrency-keys.test.ts.
 */
import type { Db } from '@leasehold/queue'
import type { Client } from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
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
  untilBlocked,
  waits,
} from './scene.ts'

let database: TestDatabase
let db: Db

beforeAll(async () => {
  database = await createTestDatabase()
  db = database.pool
})
afterAll(() => database.drop())

async function withKey(stage: string, key: string, n: number, columns: object = {}): Promise<string[]> {
  const ids = []
  for (let i = 0; i < n; i++) ids.push(await insertTask(db, stage, { concurrency_key: key, ...columns }))
  return ids
}

function setLimit(on: Db, stage: string, limit: number): Promise<unknown> {
  return on.query('update leasehold.stages set key_limit = $2 where name = $1', [stage, limit])
}

function admit(on: Db, stage: string, keys = 200): Promise<unknown> {
  return on.query('select leasehold.process_nudges($1, $2)', [[stage], keys])
}

async function statesOf(ids: readonly string[]): Promise<string[]> {
  return Promise.all(ids.map((id) => stateOf(db, id)))
}

/** A stage whose tasks of one key are all admitted, in the order of their ids. */
async function admitted(limit: number): Promise<{ stage: string; ids: string[]; worker: string }> {
  const stage = await addStage(db, { key_limit: limit })
  const worker = await addWorker(db, [stage], { ttl: '1 day' })
  const ids = await withKey(stage, 'k', limit)
  await admit(db, stage)
  expect(new Set(await statesOf(ids))).toEqual(new Set(['ready']))
  return { stage, ids, worker }
}

const waysToChange: Record<string, (stage: string, limit: number) => Promise<unknown>> = {
  'an UPDATE by hand': (stage, limit) => setLimit(db, stage, limit),
  'a worker that starts': (stage, limit) =>
    db.query('select leasehold.register_stage($1, p_key_limit => $2)', [stage, limit]),
}

describe.each(Object.keys(waysToChange))('%s', (way) => {
  const change = waysToChange[way]!

  test('lowers the limit: of each key goes back what would start last, what runs goes on', async () => {
    const stage = await addStage(db, { key_limit: 5 })
    const other = await addStage(db, { key_limit: 5 })
    const worker = await addWorker(db, [stage], { ttl: '1 day' })
    const running = await withKey(stage, 'a', 2, { priority: 9 })
    const leases = await claim(db, worker, stage, 2)
    const low = await withKey(stage, 'a', 2, { priority: 2 })
    const high = await withKey(stage, 'a', 1, { priority: 8 })
    const late = await withKey(stage, 'a', 1, { priority: 8 })
    const alone = await withKey(stage, 'b', 4)
    const few = await withKey(stage, 'c', 3)
    const keyless = await insertTask(db, stage)
    const elsewhere = await withKey(other, 'a', 5)
    await admit(db, stage)
    await admit(db, other)
    expect(await statesOf([...running, ...high, ...late])).toEqual(['running', 'running', 'ready', 'ready'])

    await change(stage, 3)

    expect(await statesOf(running)).toEqual(['running', 'running'])
    expect(await statesOf([...high, ...late, ...low])).toEqual(['ready', 'waiting', 'waiting', 'waiting'])
    expect(await statesOf(alone)).toEqual(['ready', 'ready', 'ready', 'waiting'])
    expect(await statesOf([...few, keyless])).toEqual(Array(4).fill('ready'))
    expect(await statesOf(elsewhere)).toEqual(Array(5).fill('ready'))
    expect(await problems(db)).toEqual([])
    // Two ended, so two more may start, in the order in which they would have.
    for (const lease of leases) await settle(db, worker, lease, 'done')
    await admit(db, stage)
    expect(await statesOf([...high, ...late, ...low])).toEqual(['ready', 'ready', 'ready', 'waiting'])
  })

  test('raises it: what waits is admitted by the next claim', async () => {
    const stage = await addStage(db)
    const worker = await addWorker(db, [stage])
    await withKey(stage, 'a', 5)
    await withKey(stage, 'b', 2)
    expect(await claim(db, worker, stage, 10)).toHaveLength(2)
    await change(stage, 3)
    const more = await claim(db, worker, stage, 10)
    const keys = more.map((lease) => String(lease.extra?.['concurrency_key']))
    expect(keys.toSorted((x, y) => x.localeCompare(y))).toEqual(['a', 'a', 'b'])
    expect(await problems(db)).toEqual([])
  })

  test('says the limit that is: no task is looked at', async () => {
    const { stage } = await admitted(3)
    await withKey(stage, 'k', 1)
    await admit(db, stage)
    await change(stage, 3)
    const { rows } = await db.query(
      `select key_limit_lowered_at, (select count(*)::int from leasehold.nudges n where n.stage = s.name) as nudges
      from leasehold.stages s where name = $1`,
      [stage],
    )
    expect(rows).toEqual([{ key_limit_lowered_at: null, nudges: 0 }])
  })
})

test('tasks that ran when the limit was lowered are no violation, one more would be', async () => {
  const { stage, worker } = await admitted(3)
  const leases = await claim(db, worker, stage, 3)
  const [next] = await withKey(stage, 'k', 1)
  await setLimit(db, stage, 1)
  expect(await problems(db)).toEqual([])
  for (const lease of leases.slice(0, 2)) {
    await settle(db, worker, lease, 'done')
    expect(await claim(db, worker, stage, 3)).toEqual([])
  }
  await settle(db, worker, leases[2]!, 'done')
  expect((await claim(db, worker, stage, 3)).map(({ taskId }) => taskId)).toEqual([next])
  expect(await problems(db)).toEqual([])

  await withKey(stage, 'k', 1)
  const session = await database.client()
  await session.query('begin')
  await session.query(
    `with gone as (delete from leasehold.waiting where stage = $1 returning *)
    insert into leasehold.ready (task_id, lane, stage, concurrency_key) select task_id, lane, stage, concurrency_key from gone`,
    [stage],
  )
  expect(await problems(session)).toMatchObject([
    { violation: 'more tasks of a key admitted than its limit', detail: 'k: 2 > 1' },
  ])
  await session.query('rollback')
})

test('a change that is rolled back has taken nothing back', async () => {
  const { stage, ids } = await admitted(3)
  const session = await database.client()
  await session.query('begin')
  await setLimit(session, stage, 1)
  await session.query('rollback')
  expect(await statesOf(ids)).toEqual(['ready', 'ready', 'ready'])
})

test('a change on an old snapshot is refused', async () => {
  const stage = await addStage(db, { key_limit: 3 })
  const session = await database.client()
  await session.query('begin isolation level repeatable read')
  await expect(setLimit(session, stage, 1)).rejects.toMatchObject({ code: 'LH004' })
  await session.query('rollback')
})

describe('while the limit is lowered in another transaction', () => {
  test('whoever has admitted by the old limit is waited for', async () => {
    const stage = await addStage(db, { key_limit: 3 })
    const ids = await withKey(stage, 'new', 3)
    const [admitting, lowering] = [await database.client(), await database.client()]
    await admitting.query('begin')
    await admit(admitting, stage)
    const lowered = setLimit(lowering, stage, 1)
    await untilBlocked(db, lowering, lowered)
    await admitting.query('commit')
    await lowered
    expect(await statesOf(ids)).toEqual(['ready', 'waiting', 'waiting'])
  })

  test('nobody admits by the old limit; what is admitted is claimed, and nobody waits', async () => {
    const { stage, ids, worker } = await admitted(3)
    const [lowering, claiming] = [await database.client(), await database.client()]
    await lowering.query('begin')
    await setLimit(lowering, stage, 1)
    const [late] = await withKey(stage, 'late', 3)
    const claimed = claim(claiming, worker, stage, 5)
    expect(await waits(db, claiming, claimed)).toBe(false)
    expect((await claimed).map(({ taskId }) => taskId)).toEqual([ids[0]])
    await lowering.query('commit')
    expect((await claim(db, worker, stage, 5)).map(({ taskId }) => taskId)).toEqual([late])
    expect(await problems(db)).toEqual([])
  })

  test.each(['commit', 'rollback'])(
    'a claim that holds some of the surplus counts after its %s',
    async (end) => {
      const { stage, ids, worker } = await admitted(4)
      const [claiming, lowering] = [await database.client(), await database.client()]
      await claiming.query('begin')
      expect(await claim(claiming, worker, stage, 2)).toHaveLength(2)
      const lowered = setLimit(lowering, stage, 1)
      await untilBlocked(db, lowering, lowered)
      await claiming.query(end)
      await lowered
      expect(await statesOf(ids)).toEqual(
        end === 'commit'
          ? ['running', 'running', 'waiting', 'waiting']
          : ['ready', 'waiting', 'waiting', 'waiting'],
      )
      expect(await problems(db)).toEqual([])
    },
  )

  test('a task that an operator puts in front stays, and another one goes back for it', async () => {
    const { stage, ids } = await admitted(3)
    const [operator, lowering] = [await database.client(), await database.client()]
    await operator.query('begin')
    await operator.query('select leasehold.run_now($1)', [ids[2]])
    const lowered = setLimit(lowering, stage, 1)
    await untilBlocked(db, lowering, lowered)
    await operator.query('commit')
    await lowered
    expect(await statesOf(ids)).toEqual(['waiting', 'waiting', 'ready'])
  })

  test('a task that is cancelled leaves its place to one that would have gone back', async () => {
    const { stage, ids } = await admitted(3)
    const [operator, lowering] = [await database.client(), await database.client()]
    await operator.query('begin')
    await operator.query('select leasehold.cancel_task($1)', [ids[2]])
    const lowered = setLimit(lowering, stage, 2)
    await untilBlocked(db, lowering, lowered)
    await operator.query('commit')
    await lowered
    expect(await statesOf(ids)).toEqual(['ready', 'ready', 'cancelled'])
  })
})

interface Actor {
  readonly session: Client
  readonly worker: string
  held: Lease[]
}

const keys = ['a', 'b', 'c']

/** One thing that programs do with tasks of keys. */
async function act({ session, worker, held }: Actor, random: Random, stage: string): Promise<void> {
  const dice = random.below(100)
  const known = async (): Promise<string | undefined> =>
    (
      await session.query<{ id: string }>(
        'select task_id::text as id from leasehold.ready where stage = $1 limit 1 offset $2',
        [stage, random.below(5)],
      )
    ).rows[0]?.id
  if (dice < 35) {
    const some = Array.from({ length: 1 + random.below(6) }, () => random.pick(keys))
    await session.query(
      'insert into leasehold.tasks (stage, concurrency_key, priority, max_attempts) select $1, k, $3, 100 from unnest($2::text[]) k',
      [stage, some, random.below(10)],
    )
  } else if (dice < 60) {
    held.push(...(await claim(session, worker, stage, 1 + random.below(6))))
  } else if (dice < 90) {
    const [lease] = held.splice(random.below(held.length), 1)
    if (lease === undefined) return
    await settle(
      session,
      worker,
      lease,
      random.pick(['done', 'done', 'fail', 'release', 'cancel'] as const),
      {
        retry_after: '0',
      },
    )
  } else if (dice < 95) {
    const id = await known()
    if (id !== undefined) await session.query('select leasehold.cancel_task($1)', [id])
  } else {
    const id = await known()
    // What went back to waiting in the meantime cannot run now, and that is said.
    if (id !== undefined)
      await session.query('select leasehold.run_now($1)', [id]).catch((error: unknown) => {
        if ((error as { code?: string }).code !== 'LH005') throw error
      })
  }
}

test('whatever six sessions do while the limit goes up and down, what is claimed under a limit keeps to it', async () => {
  const random = seeded('six sessions under changing limits')
  const stage = await addStage(db, { key_limit: 4, max_crashes: 100 })
  const actors = await Promise.all(
    Array.from({ length: 6 }, async (): Promise<Actor> => {
      const session = await database.client()
      return { session, held: [], worker: await addWorker(session, [stage], { ttl: '1 day' }) }
    }),
  )
  const operator = await database.client()
  const over = new AbortController()
  let current = { limit: 100_000, after: '0' }
  let lowered = 0
  const play = async (actor: Actor): Promise<void> => {
    while (!over.signal.aborted) await act(actor, random, stage)
  }
  const change = async (): Promise<void> => {
    const limit = 1 + random.below(5)
    if (random.chance(0.5)) await setLimit(operator, stage, limit)
    else await operator.query('select leasehold.register_stage($1, p_key_limit => $2)', [stage, limit])
    lowered += limit < current.limit ? 1 : 0
    // Whatever draws its fence from here on was claimed under this limit.
    const { rows } = await operator.query<{ last: string }>(
      'select last_value::text as last from leasehold.fences',
    )
    current = { limit, after: rows[0]!.last }
  }
  const watch = async (): Promise<void> => {
    const { limit, after } = current
    const { rows } = await db.query(
      `select concurrency_key, count(*) from leasehold.leases where stage = $1 and fence > $2
      group by concurrency_key having count(*) > $3`,
      [stage, after, limit],
    )
    expect(rows).toEqual([])
    expect((await db.query('select * from leasehold.invariant_violations')).rows).toEqual([])
  }
  const govern = async (): Promise<void> => {
    try {
      for (let i = 0; i < 60; i++) {
        await change()
        for (let looks = random.below(4); looks > 0; looks--) await watch()
      }
    } finally {
      over.abort()
    }
  }
  await Promise.all([govern(), ...actors.map(play)])
  expect(lowered).toBeGreaterThan(5)
  expect(await problems(db)).toEqual([])

  // All that is left is done by one worker, turn by turn: nobody was left behind.
  for (const actor of actors) await db.query('select leasehold.leave($1)', [actor.worker])
  const last = await addWorker(db, [stage], { ttl: '1 day' })
  for (let moved = 1; moved > 0;) {
    const leases = await claim(db, last, stage, 100)
    for (const lease of leases) await settle(db, last, lease, 'done')
    moved = leases.length
  }
  const { rows } = await db.query(
    `select task_id, state from leasehold.task_status where stage = $1 and state not in ('done', 'dead', 'cancelled')`,
    [stage],
  )
  expect(rows).toEqual([])
  expect(await problems(db)).toEqual([])
})

test('a hundred thousand admitted tasks go back, and come again when the limit is raised', async () => {
  const stage = await addStage(db, { key_limit: 100_000 })
  const worker = await addWorker(db, [stage], { ttl: '1 day' })
  await db.query(
    `insert into leasehold.tasks (stage, concurrency_key)
    select $1, case when n <= 60000 then 'wide' else 'key ' || n % 1000 end from generate_series(1, 100000) n`,
    [stage],
  )
  const waiting = async (): Promise<number> =>
    (await db.query('select from leasehold.waiting where stage = $1', [stage])).rowCount!
  await admit(db, stage, 2_000)
  expect(await waiting()).toBe(0)
  await claim(db, worker, stage, 1)

  await setLimit(db, stage, 2)

  // All but two of each key, be there forty or sixty thousand.
  expect(await waiting()).toBe(100_000 - 1_001 * 2)
  expect(await problems(db)).toEqual([])
  await setLimit(db, stage, 50_000)
  await admit(db, stage, 2_000)
  expect(await waiting()).toBe(10_000)
  expect(await problems(db)).toEqual([])
})
