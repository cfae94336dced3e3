/**
 * Ranges are made, turned over and dropped while workers submit, claim and settle: nobody fails, nobody waits for long.
 *
 * "For long" is what the functions themselves allow: each gives up a lock that it does not get in 200 ms. A lock that is
 * kept, or a deadlock, fails a worker by its session's limits, and with it the test.
 */
import type { Db } from '@leasehold/queue'
import type { Client } from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { addStage, addWorker, problems } from './scene.ts'

const rounds = 3

let database: TestDatabase
let db: Db

beforeAll(async () => {
  database = await createTestDatabase()
  db = database.pool
})
afterAll(() => database.drop())

/** Submits, claims and settles in one exchange after the other until it is told to stop; tells each time how many it settled. */
async function work(
  session: Client,
  stage: string,
  stop: AbortSignal,
  settled: (tasks: number) => void,
): Promise<void> {
  await session.query(`set lock_timeout = '5s'; set deadlock_timeout = '100ms'`)
  const worker = await addWorker(session, [stage], { ttl: '1 day' })
  let done: { task_id: string; fence: string }[] = []
  while (!stop.aborted || done.length > 0) {
    if (!stop.aborted) {
      await session.query(
        `insert into leasehold.tasks (stage, key, run_id)
         select $1, case when n = 1 then gen_random_uuid()::text end, 'r' from generate_series(1, 5) n`,
        [stage],
      )
    }
    const { rows } = await session.query<{ task_id: string | null; fence: string }>(
      `select task_id, fence from leasehold.exchange($1, $2, $3, null, null, null, array[$4], array[$5::integer], null, true, null)`,
      [worker, done.map((one) => one.task_id), done.map((one) => one.fence), stage, stop.aborted ? 0 : 20],
    )
    settled(done.length)
    done = rows.filter((row): row is { task_id: string; fence: string } => row.task_id !== null)
  }
}

/** Calls until it succeeds: what asks for a lock gives way, and is asked again. */
async function untilDone(call: string): Promise<void> {
  for (;;) {
    try {
      await db.query(`select leasehold.${call}`)
      return
    } catch (error) {
      if ((error as { code?: string }).code !== '55P03') throw error
    }
  }
}

test('what workers may wait for is asked for with little patience', async () => {
  const { rows } = await db.query<{ proname: string }>(
    `select proname from pg_proc where pronamespace = 'leasehold'::regnamespace and 'lock_timeout=200ms' = any (proconfig)`,
  )
  const impatient = rows.map(({ proname }) => proname)
  expect(impatient).toEqual(
    expect.arrayContaining(['rotate_partitions', 'ensure_partitions', 'drop_range', 'drop_leftovers']),
  )
})

test('workers go on while ranges are made, turned over and dropped', async () => {
  const stage = await addStage(db)
  const stopped = new AbortController()
  const sessions = await Promise.all(Array.from({ length: 4 }, () => database.client()))
  const settled = sessions.map(() => 0)
  const workers = Promise.all(
    sessions.map((session, i) =>
      work(session, stage, stopped.signal, (tasks) => (settled[i] = settled[i]! + tasks)),
    ),
  )
  // Between two rounds each of them has settled something more.
  const allWentOn = async (): Promise<void> => {
    const before = [...settled]
    await expect.poll(() => settled.every((tasks, i) => tasks > before[i]!), { interval: 5 }).toBe(true)
  }
  const dropped: string[] = []
  const ranges = (async () => {
    for (let round = 0; round < rounds; round++) {
      await allWentOn()
      await untilDone('rotate_partitions()')
      await untilDone('ensure_partitions()')
      const { rows } = await db.query<{ first: string }>(
        'select first_id as first from leasehold.partitions where closed_at is not null order by 1 desc limit 1',
      )
      const { first } = rows[0]!
      while ((await tryDrop(first)) !== null);
      for (;;) {
        const { rows: left } = await db.query<{ name: string | null }>(
          'select leasehold.drop_leftovers() as name',
        )
        if (left[0]!.name === null && !(await exists(first))) break
      }
      dropped.push(first)
    }
    await allWentOn()
  })().finally(() => stopped.abort())
  await Promise.all([workers, ranges])
  expect(dropped).toHaveLength(rounds)
  expect(await problems(db)).toEqual([])
})

async function tryDrop(first: string): Promise<string | null> {
  const { rows } = await db.query<{ reason: string | null }>(
    'select leasehold.drop_range($1, leasehold.clock()) as reason',
    [first],
  )
  return rows[0]!.reason
}

async function exists(first: string): Promise<boolean> {
  const { rows } = await db.query('select from leasehold.partitions where first_id = $1', [first])
  return rows.length > 0
}
