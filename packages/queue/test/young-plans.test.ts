/**
 * A session that began with an empty database keeps the plans it made then. They must not read the tables that have grown
 * since from end to end: statistics come a minute later, and millions of tasks may come before.
 *
 * Nothing is timed: rows that a transaction of that session has read by scanning whole tables are counted by the server.
 */
import type { Client } from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { addStage, addWorker, claimOne, insertTask, insertTasks, problems, settle } from './scene.ts'

let database: TestDatabase
let session: Client
let stage: string
let worker: string
let count = 0
const grown = 3000

/** What programs and people do with single tasks, each on tasks of its own. */
const acts: Record<string, () => Promise<unknown>> = {
  'a submission with a key': () => insertTask(session, stage, { key: `key ${++count}` }),
  'a submission with a concurrency key': () =>
    insertTask(session, stage, { concurrency_key: `c ${++count}` }),
  'a submission with a parent': async () =>
    insertTask(session, stage, { depends_on: [await insertTask(session, stage)] }),
  'a submission for later': () => insertTask(session, stage, { run_at: '2100-01-01' }),
  'submit() for a key that is held': async () => {
    await insertTask(session, stage, { key: `held ${++count}` })
    await session.query(`select leasehold.submit($1, key => $2, on_key_conflict => 'replace')`, [
      stage,
      `held ${count}`,
    ])
  },
  'a result': async () =>
    settle(session, worker, await claimOne(session, worker, stage), 'done', { result: 1 }),
  'a failure': async () => settle(session, worker, await claimOne(session, worker, stage), 'fail'),
  'a cancellation': async () => cancel(await insertTask(session, stage)),
  'a cancellation with a child': async () => {
    const parent = await insertTask(session, stage)
    await insertTask(session, stage, { depends_on: [parent] })
    await cancel(parent)
  },
  'a cancellation of what runs': async () => cancel((await claimOne(session, worker, stage)).taskId),
  'another try': async () => {
    const { taskId, ...lease } = await claimOne(session, worker, stage)
    await settle(session, worker, { taskId, ...lease }, 'fail', { retryable: false })
    await session.query('select leasehold.retry_task($1)', [taskId])
  },
  'a start before its time': async () =>
    session.query('select leasehold.run_now($1)', [
      await insertTask(session, stage, { run_at: '2100-01-01' }),
    ]),
  'an explanation': async () =>
    session.query('select * from leasehold.explain_task($1)', [await insertTask(session, stage)]),
  'a look at one task': async () =>
    session.query('select * from leasehold.task_status where task_id = $1', [
      await insertTask(session, stage),
    ]),
  'a look for violations': () => session.query('select * from leasehold.invariant_violations'),
}

function cancel(taskId: string): Promise<unknown> {
  return session.query('select leasehold.cancel_task($1)', [taskId])
}

beforeAll(async () => {
  database = await createTestDatabase()
  const { pool } = database
  const { rows } = await pool.query<{ name: string }>(
    `select c.oid::regclass::text as name from pg_class c where relnamespace = 'leasehold'::regnamespace and relkind = 'r'`,
  )
  for (const { name } of rows) await pool.query(`alter table ${name} set (autovacuum_enabled = off)`)
  stage = await addStage(pool, { backoff_min: '1 hour', backoff_max: '1 hour' })
  worker = await addWorker(pool, [stage], { ttl: '1 day' })
  session = await database.client()
  // From the sixth time on a session uses the plan it has.
  for (let i = 0; i < 8; i++) {
    await insertTask(session, stage)
    for (const act of Object.values(acts)) await act()
  }
  const many = `insert into leasehold.tasks (stage, key, run_at, depends_on, concurrency_key)
    select $1, 'grown ' || i || case when i % 4 = 0 then '' end, case when i % 4 = 1 then timestamptz '2100-01-01' end,
      case when i % 4 = 2 then array[$2::bigint] end, case when i % 4 = 3 then 'grown ' || i end
    from generate_series(1, $3::integer) i`
  const parent = await insertTask(pool, stage, { run_at: '2100-01-01' })
  await pool.query(many, [stage, parent, grown * 4])
  await insertTasks(pool, stage, grown)
  await pool.query('select count(*) from leasehold.claim($1, $2, $3)', [worker, stage, grown / 2])
})
afterAll(() => database.drop())

/** Tables of which a whole scan has read more than a tenth of what is in them now, in the transaction of this act. */
async function scannedBy(act: () => Promise<unknown>): Promise<unknown[]> {
  await session.query('begin')
  try {
    await act()
    const { rows } = await session.query(
      `select relname as "table", seq_tup_read::integer as read from pg_stat_xact_user_tables
       where schemaname = 'leasehold' and seq_tup_read > $1 and relname <> 'nudges'`,
      [grown / 10],
    )
    return rows
  } finally {
    await session.query('commit')
  }
}

test.for(Object.entries(acts))('%s reads no table from end to end', async ([, act]) => {
  expect(await scannedBy(act)).toEqual([])
})

test('nothing is wrong afterwards', async () => {
  expect(await problems(database.pool)).toEqual([])
})

test('what must not scan is not compiled either: up to PostgreSQL 17 such a plan counts as dear', async () => {
  const { rows } = await database.pool.query(
    `select p.oid::regprocedure from pg_proc p where p.pronamespace = 'leasehold'::regnamespace
       and 'enable_seqscan=off' = any (p.proconfig) and 'jit=off' <> all (p.proconfig)`,
  )
  expect(rows).toEqual([])
})
