/**
 * Who may do what: the catalogs say that nothing is open by accident, and logins of each role try what they may not.
 *
 * Roles belong to the whole server: the logins made here have names of their own and are dropped again.
 */
import type { Db } from '@leasehold/queue'
import { Client } from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { addStage, addWorker, claimOne, insertTask, problems, settle, stateOf } from './scene.ts'

const roles = ['submitter', 'worker', 'observer', 'operator'] as const
type Role = (typeof roles)[number] | 'nobody'

const contract = [
  'concurrency_key',
  'depends_on',
  'key',
  'max_attempts',
  'meta',
  'payload',
  'priority',
  'run_at',
  'run_id',
  'stage',
  'timeout',
  'title',
]
/** What an operator edits of a schedule; the rest is the program's. */
const editable = [
  'anchor',
  'catch_up',
  'cron',
  'enabled',
  'every',
  'fired_by',
  'jitter',
  'key',
  'name',
  'owner',
  'payload',
  'priority',
  'stage',
  'zone',
]
const views = [
  'active_leases',
  'database_health',
  'dead_workers',
  'invariant_violations',
  'open_incidents',
  'recent_failures',
  'run_progress',
  'stage_health',
  'task_status',
  'worker_health',
]

let database: TestDatabase
let db: Db
let stage: string
const logins = new Map<Role, Client>()

function loginOf(role: Role): string {
  return `${role}_of_${database.name}`
}

beforeAll(async () => {
  database = await createTestDatabase()
  db = database.pool
  stage = await addStage(db)
  for (const role of [...roles, 'nobody' as const]) {
    const name = loginOf(role)
    await db.query(`create role ${name} login password 'for this test only'`)
    if (role !== 'nobody') await db.query(`grant leasehold_${role} to ${name}`)
    const url = new URL(database.url)
    url.username = name
    url.password = 'for this test only'
    const client = new Client({ connectionString: url.href })
    await client.connect()
    logins.set(role, client)
  }
})
afterAll(async () => {
  for (const [role, client] of logins) {
    await client.end()
    await db.query(`drop owned by ${loginOf(role)}`)
    await db.query(`drop role ${loginOf(role)}`)
  }
  await database.drop()
})

function as(role: Role): Client {
  return logins.get(role)!
}

async function names(sql: string): Promise<string[]> {
  const { rows } = await db.query<{ name: string }>(sql)
  return rows.map((row) => row.name)
}

describe('by the catalogs', () => {
  test('every function pins its search_path with pg_temp last, or was parsed when it was made', async () => {
    // What has a parsed body resolves no name when it runs; it must not run with the owner's rights all the same.
    const loose = await names(`
      select p.proname as name from pg_proc p
      where p.pronamespace = 'leasehold'::regnamespace
        and not exists (select from unnest(p.proconfig) c where c = 'search_path=pg_catalog, leasehold, pg_temp')
        and not (p.prosqlbody is not null and not p.prosecdef)
        -- this database's movable clock
        and p.proname <> 'clock'
      order by 1`)
    expect(loose).toEqual([])
  })

  test('nobody may run a function without having been given it, but for the clock', async () => {
    const open = await names(`
      select p.proname as name from pg_proc p,
        aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
      where p.pronamespace = 'leasehold'::regnamespace and a.grantee = 0 order by 1`)
    expect(open).toEqual(['clock'])
  })

  test('nobody may touch a table, a view, a sequence or the schema without having been given it', async () => {
    const open = await names(`
      select c.relname as name from pg_class c, aclexplode(c.relacl) a
      where c.relnamespace = 'leasehold'::regnamespace and a.grantee = 0
      union all
      select n.nspname from pg_namespace n, aclexplode(n.nspacl) a where n.nspname = 'leasehold' and a.grantee = 0`)
    expect(open).toEqual([])
  })

  test('everything belongs to the owner role', async () => {
    const others = await names(`
      select c.relname as name from pg_class c
      where c.relnamespace = 'leasehold'::regnamespace and c.relkind in ('r', 'p', 'v', 'S')
        and c.relowner <> 'leasehold_owner'::regrole
      union all
      select p.proname from pg_proc p
      where p.pronamespace = 'leasehold'::regnamespace and p.proowner <> 'leasehold_owner'::regrole
      order by 1`)
    expect(others).toEqual([])
  })

  test.each(roles)(
    'a %s writes no table, but for the contract’s columns of tasks and an operator’s schedules',
    async (role) => {
      const written = await names(`
      select c.relname || ' ' || p.privilege as name
      from pg_class c, unnest(array['insert', 'update', 'delete', 'truncate', 'trigger']) as p(privilege)
      where c.relnamespace = 'leasehold'::regnamespace and c.relkind in ('r', 'p', 'v')
        and has_table_privilege('leasehold_${role}', c.oid, p.privilege)`)
      expect(written).toEqual(role === 'operator' ? ['schedules delete'] : [])
      const columns = await names(`
      select c.relname || '.' || a.attname as name from pg_attribute a join pg_class c on c.oid = a.attrelid
      where c.relnamespace = 'leasehold'::regnamespace and c.relkind in ('r', 'p', 'v') and a.attnum > 0 and not a.attisdropped
        and (has_column_privilege('leasehold_${role}', c.oid, a.attnum, 'insert')
          or has_column_privilege('leasehold_${role}', c.oid, a.attnum, 'update'))
      order by 1`)
      expect(columns).toEqual([
        ...(role === 'operator' ? editable.map((name) => `schedules.${name}`) : []),
        ...(role === 'observer' ? [] : contract.map((name) => `tasks.${name}`)),
      ])
      const sequences = await names(`
      select c.relname as name from pg_class c
      where c.relnamespace = 'leasehold'::regnamespace and case when c.relkind = 'S'
        then has_sequence_privilege('leasehold_${role}', c.oid, 'usage, update') end`)
      expect(sequences).toEqual([])
    },
  )

  test.each(roles)('a %s reads no payload from the table', async (role) => {
    const { rows } = await db.query<{ may: boolean }>(
      `select has_column_privilege('leasehold_${role}', 'leasehold.tasks', 'payload', 'select') as may`,
    )
    expect(rows).toEqual([{ may: false }])
  })
})

const insert = `insert into leasehold.tasks (stage, payload) values ($1, '{"secret": 1}')`

/** What each role tries and must not; `$1` is the stage. */
const forbidden: [Role, string][] = [
  ['nobody', 'select from leasehold.task_status'],
  ['nobody', insert],
  ['nobody', 'select leasehold.submit($1)'],
  ['nobody', 'select leasehold.cancel_task(1)'],
  ['submitter', `insert into leasehold.tasks (id, stage) overriding system value values (1, $1)`],
  ['submitter', `insert into leasehold.tasks (stage, submitted_at) values ($1, '2000-01-01')`],
  ['submitter', `insert into leasehold.tasks_0 (stage) values ($1)`],
  ['submitter', `insert into leasehold.ready (task_id, lane, stage) values (1, 10, $1)`],
  ['submitter', `update leasehold.tasks set priority = 9 where stage = $1`],
  ['submitter', 'delete from leasehold.tasks where stage = $1'],
  ['submitter', 'select payload from leasehold.tasks where stage = $1'],
  ['submitter', `select leasehold.enter('{1}', '{0}', '{0}', null, true), $1::text`],
  ['submitter', 'select leasehold.cancel_task(1), $1::text'],
  ['submitter', 'select leasehold.pause_stage($1)'],
  ['submitter', `select leasehold.claim(gen_random_uuid(), $1)`],
  ['submitter', 'select leasehold.wake(array[$1])'],
  ['worker', `update leasehold.leases set deadline_at = 'infinity' where stage = $1`],
  ['worker', 'delete from leasehold.ready where stage = $1'],
  ['worker', 'select from leasehold.leases where stage = $1'],
  ['worker', 'select payload from leasehold.tasks where stage = $1'],
  [
    'worker',
    `insert into leasehold.attempts (task_id, fence, ended_at, attempt, final, outcome)
              values (1, 1, now(), 1, true, $1)`,
  ],
  ['worker', `select leasehold.settle_endings(gen_random_uuid(), '[]'), $1::text`],
  ['worker', `select leasehold.end_worker(gen_random_uuid(), $1)`],
  ['worker', 'select leasehold.cancel_task(1), $1::text'],
  ['worker', 'select leasehold.resume_stage($1)'],
  ['worker', 'update leasehold.stages set paused_until = null where name = $1'],
  ['observer', insert],
  ['observer', 'select payload from leasehold.tasks where stage = $1'],
  ['observer', 'select leasehold.submit($1)'],
  ['observer', 'select leasehold.cancel_task(1), $1::text'],
  ['observer', 'select leasehold.retry_task(1), $1::text'],
  ['observer', 'select leasehold.run_now(1), $1::text'],
  ['observer', 'select leasehold.pause_stage($1)'],
  ['observer', 'select leasehold.drain_slot($1)'],
  ['operator', 'select payload from leasehold.tasks where stage = $1'],
  ['operator', 'update leasehold.stages set paused_until = null where name = $1'],
  ['operator', `select leasehold.claim(gen_random_uuid(), $1)`],
  ['operator', 'select leasehold.drop_range(0, now()), $1::text'],
  ['operator', `select leasehold.set_retention('{"keep_tasks": "1 minute"}'), $1::text`],
  ['operator', 'update leasehold.retention set keep_tasks = null'],
  ['worker', `select leasehold.begin_duty($1, $1, '1 minute', $1)`],
]

test.each(forbidden)('a %s is refused: %s', async (role, sql) => {
  const parameters = sql.includes('$1') ? [stage] : []
  await expect(as(role).query(sql, parameters)).rejects.toMatchObject({ code: '42501' })
})

test('a submitter submits with every contract column, and learns the id and the state of its task', async () => {
  const id = await insertTask(as('submitter'), stage, {
    payload: '{}',
    priority: 7,
    run_at: '2020-01-01',
    key: 'k',
    run_id: 'r',
    title: 't',
    max_attempts: 2,
    timeout: '1 minute',
    depends_on: [],
    concurrency_key: 'c',
    meta: '{}',
  })
  const { rows } = await as('submitter').query<{ id: string }>(
    `select leasehold.submit($1, key => 'k', on_key_conflict => 'replace') as id`,
    [stage],
  )
  expect(await stateOf(as('submitter'), id)).toBe('cancelled')
  await as('submitter').query('select * from leasehold.explain_task($1)', [rows[0]!.id])
  await db.query('select leasehold.cancel_task($1)', [rows[0]!.id])
})

test('a worker lives its whole life with its own rights', async () => {
  const worker = as('worker')
  const of = await addStage(worker)
  const id = await addWorker(worker, [of])
  await insertTask(worker, of)
  const lease = await claimOne(worker, id, of)
  await worker.query('select leasehold.heartbeat($1)', [id])
  const note = [{ task_id: lease.taskId, fence: lease.fence, kind: 'checkpoint', name: 'n', value: 1 }]
  await worker.query('select leasehold.write_notes($1, $2)', [id, JSON.stringify(note)])
  const { rows } = await worker.query('select value from leasehold.task_checkpoints where task_id = $1', [
    lease.taskId,
  ])
  expect(rows).toEqual([{ value: 1 }])
  expect(await settle(worker, id, lease, 'done', { children: [{ stage: of }] })).toBe(true)
  await claimOne(worker, id, of)
  await worker.query('select leasehold.return_strays($1, null)', [id])
  for (const call of [
    'release_dead_workers()',
    'advance_floors()',
    "advance_floors_every('1 s')",
    'monitor_silence()',
  ]) {
    await worker.query(`select leasehold.${call}`)
  }
  await worker.query('select leasehold.leave($1)', [id])
})

test('an observer reads every view and asks why', async () => {
  const id = await insertTask(db, stage)
  for (const view of views) await as('observer').query(`select * from leasehold.${view}`)
  const { rows } = await as('observer').query<{ state: string }>(
    'select state from leasehold.explain_task($1)',
    [id],
  )
  expect(rows).toEqual([{ state: 'ready' }])
})

test('no view shows a payload', async () => {
  const shown = await names(`
    select c.relname || '.' || a.attname as name from pg_class c join pg_attribute a on a.attrelid = c.oid
    where c.relnamespace = 'leasehold'::regnamespace and c.relkind = 'v' and a.attname in ('payload', 'meta')
      and c.relname <> 'worker_health'`)
  expect(shown).toEqual([])
})

test('an operator’s verbs work', async () => {
  const operator = as('operator')
  const id = await insertTask(operator, stage, { run_at: new Date(Date.now() + 3_600_000) })
  const ask = async (call: string, value: string): Promise<unknown> =>
    (await operator.query<{ answer: unknown }>(`select ${call} as answer`, [value])).rows[0]!.answer
  expect(await ask('leasehold.run_now($1)', id)).toBe(true)
  expect(await ask('leasehold.cancel_task($1)', id)).toBe(true)
  expect(await ask('leasehold.retry_task($1)', id)).toBe(true)
  expect(await ask('leasehold.drain_slot($1)', 'no-such-slot')).toBe(false)
  await ask('leasehold.pause_stage($1)', stage)
  await ask('leasehold.resume_stage($1)', stage)
  expect(await problems(operator)).toEqual([])
})

test('objects of the caller’s own, temporary or first in its search_path, stand in for nothing', async () => {
  const caller = as('submitter')
  await caller.query(`create temp table stages (name text); create temp table ready (like stages);
    create temp table task_keys (stage text, key text, task_id bigint);
    create function pg_temp.clock_timestamp() returns timestamptz language sql as 'select ''-infinity''::timestamptz';
    create function pg_temp.hashtextextended(text, bigint) returns bigint language plpgsql as 'begin raise exception ''mine''; end';
    set search_path = pg_temp, pg_catalog`)
  const id = await insertTask(caller, stage, { key: 'mine' })
  await expect(caller.query(`select leasehold.submit('no_such')`)).rejects.toMatchObject({ code: 'LH001' })
  await caller.query('reset search_path')
  expect(await stateOf(db, id)).toBe('ready')
  expect(await problems(db)).toEqual([])
})
