/**
 * depends_on: a child goes when all its parents are done, is cancelled when one is not, and is never left behind.
 *
 * The interleavings of a parent that ends and a child that is being submitted are all played, with two real sessions and
 * a look for work at every point between. Parents and children stand in stages of their own.
 */
import type { Db } from '@leasehold/queue'
import type { Client } from 'pg'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import {
  type Lease,
  addStage,
  addWorker,
  claim,
  claimOne,
  insertTask,
  insertTasks,
  problems,
  settle,
  settleDone,
  snapshot,
  stateOf,
} from './scene.ts'

let database: TestDatabase
let db: Db
let parents: string
let children: string
let worker: string
let ending: Client
let submitting: Client

beforeAll(async () => {
  database = await createTestDatabase()
  db = database.pool
  ending = await database.client()
  submitting = await database.client()
})
afterAll(() => database.drop())
beforeEach(async () => {
  parents = await addStage(db, { max_crashes: 1 })
  children = await addStage(db)
  worker = await addWorker(db, [parents, children], { ttl: '1 hour' })
  return async () => expect(await problems(db)).toEqual([])
})

async function child(of: (string | undefined)[], more = {}): Promise<string> {
  return insertTask(db, children, { depends_on: of, ...more })
}

async function claimedIds(stage = children): Promise<string[]> {
  return (await claim(db, worker, stage, 50)).map((lease) => lease.taskId)
}

async function errorOf(id: string): Promise<unknown> {
  const { rows } = await db.query<{ error: unknown }>(
    'select last_error as error from leasehold.task_status where task_id = $1',
    [id],
  )
  return rows[0]!.error
}

test('a child goes when the last of its parents is done, and not before', async () => {
  const ids = await insertTasks(db, parents, 3)
  const id = await child([...ids, ids[0]])
  for (const lease of await claim(db, worker, parents, 3)) {
    expect(await claimedIds()).toEqual([])
    await settle(db, worker, lease, 'done', { result: 1 })
  }
  expect(await claimedIds()).toEqual([id])
})

test('a child of 500 parents goes when they are done, in whatever batches', async () => {
  const ids = await insertTasks(db, parents, 500)
  const id = await child(ids)
  for (let left = 500; left > 0;) {
    expect(await claimedIds()).toEqual([])
    const leases = await claim(db, worker, parents, 83)
    await settleDone(db, worker, leases)
    left -= leases.length
  }
  let freed: string[] = []
  for (let i = 0; i < 10 && freed.length === 0; i++) freed = await claimedIds()
  expect(freed).toEqual([id])
  const { rowCount } = await db.query('select from leasehold.nudges where stage = $1', [children])
  expect(rowCount).toBe(0)
})

test('a child whose parents were done long ago goes at once', async () => {
  const parent = await insertTask(db, parents)
  await settleDone(db, worker, await claim(db, worker, parents))
  const id = await child([parent])
  expect(await claimedIds()).toEqual([id])
})

test('no parents are no reason to wait', async () => {
  const id = await child([])
  expect(await stateOf(db, id)).toBe('ready')
})

test('a freed child still waits for its own time and for its concurrency key', async () => {
  const [parent] = await insertTasks(db, parents, 1)
  const later = await child([parent], { run_at: new Date(Date.now() + 3_600_000) })
  const first = await child([parent], { concurrency_key: 'k' })
  const second = await child([parent], { concurrency_key: 'k' })
  await settleDone(db, worker, await claim(db, worker, parents))
  expect(await claimedIds()).toEqual([first])
  expect([await stateOf(db, later), await stateOf(db, second)]).toEqual(['scheduled', 'waiting'])
})

const badEnds: Record<string, (lease: Lease) => Promise<unknown>> = {
  dead: (lease) => settle(db, worker, lease, 'fail', { retryable: false }),
  cancelled: (lease) => db.query('select leasehold.cancel_task($1)', [lease.taskId]),
  quarantined: async () => {
    const { rows } = await db.query<{ slot: string }>('select slot from leasehold.workers where id = $1', [
      worker,
    ])
    worker = await addWorker(db, [parents, children], { slot: rows[0]!.slot, ttl: '1 hour' })
  },
}

test.each(Object.keys(badEnds))(
  'a parent that is %s cancels its children and theirs, and nobody else',
  async (end) => {
    const [top, other] = await insertTasks(db, parents, 2)
    const left = await child([top])
    const right = await child([top])
    const below = await child([left, right, other])
    const last = await child([below])
    const apart = await child([other])
    await badEnds[end]!(await claimOne(db, worker, parents))
    expect(await claimedIds()).toEqual([])
    for (const id of [left, right, below, last]) expect(await stateOf(db, id)).toBe('cancelled')
    expect(await errorOf(left)).toMatchObject({ code: 'parent_failed', parent: top })
    expect(await stateOf(db, apart)).toBe('waiting')
    await settleDone(db, worker, await claim(db, worker, parents, 5))
    expect(await claimedIds()).toEqual([apart])
  },
)

test.each([
  ['missing', '9999999', 'LH003'],
  ['itself', 'next', 'LH003'],
  ['null', null, 'LH003'],
  ['negative', '-1', 'LH003'],
  ['past 2^63', '9223372036854775808', '22003'],
])('a parent that is %s is refused, and nothing is submitted', async (what, parent, code) => {
  const before = await snapshot(db)
  const { rows } = await db.query<{ next: string }>(
    `select (case when is_called then last_value + 1 else 1 end)::text as next from leasehold.tasks_id_seq`,
  )
  const id = what === 'itself' ? rows[0]!.next : parent
  await expect(child([id as string])).rejects.toMatchObject({ code })
  expect(await snapshot(db)).toEqual(before)
})

test('a parent that is younger than its child is refused, so that no cycle can be written', async () => {
  const { rows } = await db.query<{ last: string }>('select last_value as last from leasehold.tasks_id_seq')
  const [first, second] = [BigInt(rows[0]!.last) + 1n, BigInt(rows[0]!.last) + 2n]
  await expect(
    db.query('insert into leasehold.tasks (stage, depends_on) values ($1, $2), ($1, $3)', [
      children,
      [String(second)],
      [String(first)],
    ]),
  ).rejects.toMatchObject({ code: 'LH003', message: expect.stringContaining('before its child') as string })
})

test('a parent in another’s open transaction is not yet there', async () => {
  const session = await database.client()
  await session.query('begin')
  const parent = await insertTask(session, parents)
  await expect(child([parent])).rejects.toMatchObject({ code: 'LH003' })
  await session.query('commit')
  await child([parent])
})

test('parents and children go in one statement, and in one transaction', async () => {
  const session = await database.client()
  await session.query('begin')
  const parent = await insertTask(session, parents)
  const id = await insertTask(session, children, { depends_on: [parent] })
  await session.query('commit')
  await settleDone(db, worker, await claim(db, worker, parents))
  expect(await claimedIds()).toEqual([id])
})

test('more than 10,000 parents are refused by name', async () => {
  await expect(
    db.query(
      'insert into leasehold.tasks (stage, depends_on) select $1, array(select 1 from generate_series(1, 10001))',
      [children],
    ),
  ).rejects.toMatchObject({ code: '23514', constraint: 'task_depends_on_at_most_10000' })
})

test('a parent that was retried before its children heard of its death keeps them waiting', async () => {
  const [parent] = await insertTasks(db, parents, 1)
  const id = await child([parent])
  await settle(db, worker, await claimOne(db, worker, parents), 'fail', { retryable: false })
  await db.query('select leasehold.retry_task($1)', [parent])
  expect(await claimedIds()).toEqual([])
  expect(await stateOf(db, id)).toBe('waiting')
  await settleDone(db, worker, await claim(db, worker, parents))
  expect(await claimedIds()).toEqual([id])
})

test('a cancelled child is retried only after its parent, and then waits for it', async () => {
  const [parent] = await insertTasks(db, parents, 1)
  const id = await child([parent])
  await settle(db, worker, await claimOne(db, worker, parents), 'fail', { retryable: false })
  await claimedIds()
  expect(await stateOf(db, id)).toBe('cancelled')

  const before = await snapshot(db)
  const retry = (task: string): Promise<unknown> => db.query('select leasehold.retry_task($1)', [task])
  await expect(retry(id)).rejects.toMatchObject({ code: 'LH005' })
  expect(await snapshot(db)).toEqual(before)
  await retry(parent!)
  await retry(id)
  expect(await claimedIds()).toEqual([])
  await settleDone(db, worker, await claim(db, worker, parents))
  expect(await claimedIds()).toEqual([id])
})

// What happens on both sides, in every order: 'P' steps of the parent's session, 'C' steps of the child's.
type Step = 'P' | 'C'

function interleavings(p: number, c: number): Step[][] {
  if (p === 0 && c === 0) return [[]]
  const first = p > 0 ? interleavings(p - 1, c).map((rest): Step[] => ['P', ...rest]) : []
  const second = c > 0 ? interleavings(p, c - 1).map((rest): Step[] => ['C', ...rest]) : []
  return [...first, ...second]
}

interface ParentEnd {
  readonly isolation: 'read committed' | 'repeatable read'
  readonly act: (on: Db, lease: Lease) => Promise<unknown>
  readonly commit: 'commit' | 'rollback'
  readonly after: 'ready' | 'cancelled' | 'waiting'
}

const cancel = (on: Db, lease: Lease): Promise<unknown> =>
  on.query('select leasehold.cancel_task($1)', [lease.taskId])

const parentEnds: Record<string, ParentEnd> = {
  'is done in bulk': {
    isolation: 'read committed',
    act: (on, lease) => settleDone(on, worker, [lease]),
    commit: 'commit',
    after: 'ready',
  },
  'is done': {
    isolation: 'read committed',
    act: (on, lease) => settle(on, worker, lease, 'done'),
    commit: 'commit',
    after: 'ready',
  },
  dies: {
    isolation: 'read committed',
    act: (on, lease) => settle(on, worker, lease, 'fail', { retryable: false }),
    commit: 'commit',
    after: 'cancelled',
  },
  'is cancelled': { isolation: 'read committed', act: cancel, commit: 'commit', after: 'cancelled' },
  'is cancelled on an old snapshot': {
    isolation: 'repeatable read',
    act: cancel,
    commit: 'commit',
    after: 'cancelled',
  },
  'is almost done': {
    isolation: 'read committed',
    act: (on, lease) => settle(on, worker, lease, 'done'),
    commit: 'rollback',
    after: 'waiting',
  },
}

describe.each(Object.entries(parentEnds))('while its parent %s', (_, end) => {
  const lookings = [true, false]
  test.each(lookings)(
    'a child is submitted in any order of events, and not stranded (looks between: %s)',
    async (looks) => {
      for (const order of interleavings(3, 2)) {
        const [parent] = await insertTasks(db, parents, 1)
        const lease = await claimOne(db, worker, parents)
        let id = ''
        const steps = {
          P: [
            async () => {
              await ending.query(`begin isolation level ${end.isolation}`)
              await ending.query('select from leasehold.tasks limit 1') // takes the snapshot
            },
            () => end.act(ending, lease),
            () => ending.query(end.commit),
          ],
          C: [
            async () => {
              await submitting.query('begin')
              id = await insertTask(submitting, children, { depends_on: [parent] })
            },
            () => submitting.query('commit'),
          ],
        }
        const seen: string[] = []
        for (const step of order) {
          await steps[step].shift()!()
          if (looks) seen.push(...(await claimedIds()))
        }
        await db.query('select leasehold.process_nudges($1)', [[parents, children]]) // as the monitor does
        seen.push(...(await claimedIds()))
        const what = `after ${order.join(' ')}`
        expect(seen, what).toEqual(end.after === 'ready' ? [id] : [])
        expect(await stateOf(db, id), what).toBe(end.after === 'ready' ? 'running' : end.after)
        if (end.after === 'waiting') {
          await settle(db, worker, lease, 'done')
          expect(await claimedIds(), what).toEqual([id])
        }
      }
    },
  )
})
