/**
 * Submitters that commit late and out of order, claimers and a ticker let loose on one queue: every task is claimed once.
 *
 * Real sessions with open transactions and savepoints, while a watcher looks for tasks below a floor; the seed is
 * printed. Each case by itself: floors.test.ts.
 */
import type { Db } from '@leasehold/queue'
import type { Client } from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { type Random, addStage, addWorker, claim, problems, seeded, settle, settleDone } from './scene.ts'

let database: TestDatabase
let db: Db
let stage: string
let worker: string

beforeAll(async () => {
  database = await createTestDatabase()
  db = database.pool
  stage = await addStage(db)
  worker = await addWorker(db, [stage], { ttl: '1 day' })
})
afterAll(() => database.drop())

/** One tick: floors rise by any step. Null when another session ticks at this moment. */
async function tick(on: Db, patience: string): Promise<number | null> {
  const { rows } = await on.query<{ raised: number | null }>(
    'select leasehold.advance_floors($1, 1) as raised',
    [patience],
  )
  return rows[0]!.raised
}

interface Run {
  readonly random: Random
  readonly committed: Set<string>
  readonly claimed: Map<string, number>
  ticks: number
  submitting: number
}

/** Lets other sessions go on; now and then until several ticks have passed. */
async function hold(run: Run, session: Client): Promise<void> {
  const until = run.random.chance(0.15) ? run.ticks + 1 + run.random.below(4) : 0
  do await session.query('select 1')
  while (run.ticks < until && run.submitting > 1)
}

async function submitLoosely(run: Run): Promise<void> {
  const { random } = run
  const session = await database.client()
  for (let round = 0; round < 25; round++) {
    const mine: string[] = []
    await session.query('begin')
    for (let part = random.below(4); part >= 0; part--) {
      const savepoint = random.chance(0.4)
      if (savepoint) await session.query('savepoint s')
      const { rows } = await session.query<{ id: string }>(
        'insert into leasehold.tasks (stage, priority) select $1, $2 from generate_series(1, $3::int) returning id',
        [stage, random.pick([0, 5, 9]), 1 + random.below(4)],
      )
      await hold(run, session)
      const undone = savepoint && random.chance(0.4)
      if (savepoint) await session.query(`${undone ? 'rollback to' : 'release'} savepoint s`)
      if (!undone) mine.push(...rows.map((row) => row.id))
    }
    const keeps = random.chance(0.8)
    await session.query(keeps ? 'commit' : 'rollback')
    if (keeps) for (const id of mine) run.committed.add(id)
  }
  run.submitting -= 1
}

async function claimLoosely(run: Run): Promise<void> {
  const { random } = run
  const session = await database.client()
  while (run.submitting > 0) {
    for (const lease of await claim(session, worker, stage, 1 + random.below(10))) {
      const open = random.chance(0.2)
      if (open) await session.query('begin')
      const done = random.chance(0.8)
      await settle(session, worker, lease, done ? 'done' : 'release')
      if (done) run.claimed.set(lease.taskId, (run.claimed.get(lease.taskId) ?? 0) + 1)
      if (open) await hold(run, session)
      if (open) await session.query('commit')
    }
  }
}

test('with submitters that commit late and out of order, every task is claimed once and none is left below', async () => {
  const random = seeded('six submitters, three claimers, a ticker')
  const run: Run = { random, committed: new Set(), claimed: new Map(), ticks: 0, submitting: 6 }
  const seen = { raised: 0, stragglers: 0 }
  const keepTicking = async (): Promise<void> => {
    const session = await database.client()
    while (run.submitting > 0) {
      seen.raised += (await tick(session, random.chance(0.3) ? '0' : '1 hour')) ?? 0
      run.ticks += 1
      const { rows } = await session.query<{ n: number }>(
        `select count(*)::int as n from leasehold.stragglers`,
      )
      seen.stragglers += rows[0]!.n
    }
  }
  const watch = async (): Promise<void> => {
    const session = await database.client()
    while (run.submitting > 0) {
      const { rows } = await session.query(
        'select violation, task_id, detail from leasehold.invariant_violations',
      )
      expect(rows).toEqual([])
    }
  }
  await Promise.all([
    ...Array.from({ length: 6 }, () => submitLoosely(run)),
    ...Array.from({ length: 3 }, () => claimLoosely(run)),
    keepTicking(),
    watch(),
  ])
  for (let i = 0; i < 3; i++) await tick(db, '0')
  expect((await db.query('select from leasehold.below_floors()')).rowCount).toBe(0)
  for (let leases = await claim(db, worker, stage, 500); leases.length > 0;) {
    await settleDone(db, worker, leases)
    for (const { taskId } of leases) run.claimed.set(taskId, (run.claimed.get(taskId) ?? 0) + 1)
    leases = await claim(db, worker, stage, 500)
  }
  expect([...run.claimed.keys()].toSorted()).toEqual([...run.committed].toSorted())
  expect([...run.claimed.values()].filter((times) => times !== 1)).toEqual([])
  // A run in which no floor rose and nobody was passed proves nothing.
  expect(seen.raised).toBeGreaterThan(5)
  expect(seen.stragglers).toBeGreaterThan(0)
  expect(await problems(db)).toEqual([])
})
