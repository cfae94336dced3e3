/**
 * Unique keys: one unfinished task per stage and key, freed in the very transaction that ends it; keep and replace.
 *
 * Races are two real sessions with open transactions. Concurrency keys (how many run at once) are another thing:
 * concurrency-keys.test.ts.
 */
import type { Db } from '@leasehold/queue'
import type { Client } from 'pg'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import {
  addStage,
  addWorker,
  claim,
  claimOne,
  insertTask,
  outcomesOf,
  problems,
  settle,
  settleDone,
  snapshot,
  stateOf,
  untilBlocked,
} from './scene.ts'

let database: TestDatabase
let db: Db
let stage: string
let worker: string

beforeAll(async () => {
  database = await createTestDatabase()
  db = database.pool
})
afterAll(() => database.drop())
beforeEach(async () => {
  stage = await addStage(db, { max_crashes: 1 })
  worker = await addWorker(db, [stage], { ttl: '1 hour' })
  return async () => expect(await problems(db)).toEqual([])
})

async function submit(on: Db, conflict: 'error' | 'keep' | 'replace', more = {}): Promise<string> {
  const named = Object.entries({ key: 'k', ...more })
  const { rows } = await on.query<{ id: string }>(
    `select leasehold.submit($1, on_key_conflict => $2${named.map(([name], i) => `, ${name} => $${i + 3}`).join('')}) as id`,
    [stage, conflict, ...named.map(([, value]) => value)],
  )
  return rows[0]!.id
}

const conflict = { code: '23505', constraint: 'key_once_per_unfinished_task' }

const waysToEnd: Record<string, (on: Db, taskId: string) => Promise<unknown>> = {
  'is done in bulk': async (on) => settleDone(on, worker, [await claimOne(on, worker, stage)]),
  'is done with a result': async (on) =>
    settle(on, worker, await claimOne(on, worker, stage), 'done', { result: 1 }),
  'is dead': async (on) =>
    settle(on, worker, await claimOne(on, worker, stage), 'fail', { retryable: false }),
  'is cancelled by its handler': async (on) =>
    settle(on, worker, await claimOne(on, worker, stage), 'cancel'),
  'is cancelled before it ran': (on, id) => on.query('select leasehold.cancel_task($1)', [id]),
  'is quarantined': async (on) => {
    const { rows } = await on.query<{ slot: string }>('select slot from leasehold.workers where id = $1', [
      worker,
    ])
    await claimOne(on, worker, stage)
    await addWorker(on, [stage], { slot: rows[0]!.slot })
  },
}

test.each(Object.keys(waysToEnd))('a key is free in the transaction in which its task %s', async (way) => {
  const first = await insertTask(db, stage, { key: 'k' })
  await expect(insertTask(db, stage, { key: 'k' })).rejects.toMatchObject(conflict)
  const [ending, other] = [await database.client(), await database.client()]
  await ending.query('begin')
  await waysToEnd[way]!(ending, first)
  const second = await insertTask(ending, stage, { key: 'k' })
  const third = insertTask(other, stage, { key: 'k' })
  await untilBlocked(db, other, third)
  await ending.query('commit')
  await expect(third).rejects.toMatchObject(conflict)
  expect(await stateOf(db, first)).not.toBe('ready')
  expect(await stateOf(db, second)).toBe('ready')
})

test.each(['released', 'snoozed', 'failed with attempts left', 'lost with its worker'])(
  'a task that was %s still holds its key',
  async (how) => {
    stage = await addStage(db)
    const slot = `slot of ${stage}`.replaceAll(' ', '-')
    worker = await addWorker(db, [stage], { slot })
    await insertTask(db, stage, { key: 'k' })
    const lease = await claimOne(db, worker, stage)
    if (how === 'released') await settle(db, worker, lease, 'release')
    else if (how === 'snoozed') await settle(db, worker, lease, 'snooze')
    else if (how.startsWith('failed')) await settle(db, worker, lease, 'fail')
    else await addWorker(db, [stage], { slot })
    await expect(insertTask(db, stage, { key: 'k' })).rejects.toMatchObject(conflict)
  },
)

test('the same key may be used in another stage', async () => {
  await insertTask(db, stage, { key: 'k' })
  await insertTask(db, await addStage(db), { key: 'k' })
})

test('a statement with the same key twice submits nothing', async () => {
  const before = await snapshot(db)
  await expect(
    db.query(`insert into leasehold.tasks (stage, key) values ($1, null), ($1, 'x'), ($1, 'x')`, [stage]),
  ).rejects.toMatchObject(conflict)
  expect(await snapshot(db)).toEqual(before)
})

test('two submitters with the same keys in opposite order: one waits and is refused, none deadlocks', async () => {
  const [one, two] = [await database.client(), await database.client()]
  const both = `insert into leasehold.tasks (stage, key) select $1, unnest($2::text[])`
  await one.query('begin')
  await one.query(both, [stage, ['a', 'b', 'c']])
  const second = two.query(both, [stage, ['c', 'b', 'a']])
  await untilBlocked(db, two, second)
  await one.query('commit')
  await expect(second).rejects.toMatchObject(conflict)
})

test('keep returns the id of the task that holds the key, in any unfinished state', async () => {
  const id = await submit(db, 'keep')
  expect(await submit(db, 'keep')).toBe(id)
  const lease = await claimOne(db, worker, stage)
  expect(await submit(db, 'keep')).toBe(id)
  await settle(db, worker, lease, 'done')
  expect(await submit(db, 'keep')).not.toBe(id)
})

test.each(['commit', 'rollback'])('two that keep at once get one task after a %s', async (end) => {
  const [one, two] = [await database.client(), await database.client()]
  await one.query('begin')
  const first = await submit(one, 'keep')
  const waiting = submit(two, 'keep')
  await untilBlocked(db, two, waiting)
  await one.query(end)
  const second = await waiting
  expect(second === first).toBe(end === 'commit')
  expect(await stateOf(db, second)).toBe('ready')
})

test.each(['ready', 'scheduled', 'waiting'])('replace cancels a %s task and takes its key', async (state) => {
  const parent = await insertTask(db, await addStage(db))
  const more = {
    ready: {},
    scheduled: { run_at: new Date(Date.now() + 3_600_000) },
    waiting: { depends_on: [parent] },
  }
  const first = await submit(db, 'error', more[state as 'ready'])
  const second = await submit(db, 'replace')
  expect([await stateOf(db, first), await stateOf(db, second)]).toEqual(['cancelled', 'ready'])
  await expect(submit(db, 'error')).rejects.toMatchObject(conflict)
})

test('replace refuses while the task runs, and changes nothing', async () => {
  await submit(db, 'error')
  const lease = await claimOne(db, worker, stage)
  const before = await snapshot(db)
  await expect(submit(db, 'replace')).rejects.toMatchObject({ code: '55006' })
  expect(await snapshot(db)).toEqual(before)
  expect(await settle(db, worker, lease, 'done')).toBe(true)
})

test.each([
  ['commits', 'commit', 'running'],
  ['rolls back', 'rollback', 'cancelled'],
] as const)('replace waits for an open claim and, when that %s, never overlaps it', async (_, end, state) => {
  const first = await submit(db, 'error')
  const [claiming, replacing] = [await database.client(), await database.client()]
  await claiming.query('begin')
  await claimOne(claiming, worker, stage)
  const replaced = submit(replacing, 'replace')
  await untilBlocked(db, replacing, replaced)
  await claiming.query(end)
  if (end === 'commit') await expect(replaced).rejects.toMatchObject({ code: '55006' })
  else expect(await stateOf(db, await replaced)).toBe('ready')
  expect(await stateOf(db, first)).toBe(state)
})

async function replaceTenTimes(session: Client): Promise<string[]> {
  const ids = []
  for (let i = 0; i < 10; i++) ids.push(await submit(session, 'replace'))
  return ids
}

test('of many that replace at once exactly one task is left unfinished', async () => {
  const sessions = await Promise.all(Array.from({ length: 6 }, () => database.client()))
  const ids = (await Promise.all(sessions.map(replaceTenTimes))).flat()
  const states = await Promise.all(ids.map((id) => stateOf(db, id)))
  expect(states.filter((state) => state === 'ready')).toHaveLength(1)
  expect(states.filter((state) => state === 'cancelled')).toHaveLength(59)
})

test('a key conflict policy that does not exist is refused', async () => {
  for (const policy of ['ignore', null]) {
    await expect(
      db.query(`select leasehold.submit($1, on_key_conflict => $2)`, [stage, policy]),
    ).rejects.toMatchObject({ code: '22023' })
  }
})

test('a dead task is not retried while another one holds its key', async () => {
  const first = await insertTask(db, stage, { key: 'k' })
  await settle(db, worker, await claimOne(db, worker, stage), 'fail', { retryable: false })
  const second = await insertTask(db, stage, { key: 'k' })
  const before = await snapshot(db)
  const retry = (): Promise<unknown> => db.query('select leasehold.retry_task($1)', [first])
  await expect(retry()).rejects.toMatchObject(conflict)
  expect(await snapshot(db)).toEqual(before)

  await db.query('select leasehold.cancel_task($1)', [second])
  await retry()
  await expect(insertTask(db, stage, { key: 'k' })).rejects.toMatchObject(conflict)
  expect(await outcomesOf(db, first)).toEqual(['dead', 'reopened'])
})

test('two operators who retry at once reopen a task once', async () => {
  const id = await insertTask(db, stage)
  await db.query('select leasehold.cancel_task($1)', [id])
  const [one, two] = [await database.client(), await database.client()]
  const retry = async (on: Db): Promise<boolean> =>
    (await on.query<{ moved: boolean }>('select leasehold.retry_task($1) as moved', [id])).rows[0]!.moved
  await one.query('begin')
  expect(await retry(one)).toBe(true)
  const second = retry(two)
  await untilBlocked(db, two, second)
  await one.query('commit')
  expect(await second).toBe(false)
  expect(await claim(db, worker, stage, 5)).toHaveLength(1)
})
