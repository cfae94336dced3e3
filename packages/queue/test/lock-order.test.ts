/**
 * Every verb against every verb on the same tasks, in two open transactions: they may wait, they never deadlock, and
 * whichever comes first the audit finds nothing.
 *
 * Each pair has a family of its own: a running task with a key, a child that waits for it and a sibling that waits for
 * its concurrency key. Which answer is right is state-verb-walk.test.ts; here it is that there is one.
 */
import type { Db } from '@leasehold/queue'
import type { Client } from 'pg'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { addWorker, beat, claim, insertTask, problems, settle, settleDone, waits } from './scene.ts'

let database: TestDatabase
let db: Db
let one: Client
let two: Client

beforeAll(async () => {
  database = await createTestDatabase()
  db = database.pool
  one = await database.client()
  two = await database.client()
  await db.query(raiseFunction)
})
afterAll(() => database.drop())
beforeEach(() => async () => {
  await one.query('rollback') // for a pair that failed half-way; the next one starts anew
  await two.query('rollback')
})

interface Family {
  readonly stage: string
  readonly slot: string
  readonly worker: string
  readonly other: string
  readonly lease: { taskId: string; fence: string }
  readonly child: string
  readonly sibling: string
}

async function raise(): Promise<Family> {
  const { rows } = await db.query<Family & { stage: string }>('select * from leasehold_test.raise()')
  return rows[0]!
}

// One round trip for each family: there are many.
const raiseFunction = `
  create sequence leasehold_test.families;
  create function leasehold_test.raise() returns table (
    stage text, slot text, worker uuid, other uuid, lease jsonb, child text, sibling text
  ) language plpgsql as $$
  begin
    stage := 'family_' || nextval('leasehold_test.families');
    slot := 'slot-of-' || stage;
    perform leasehold.register_stage(stage, p_timeout => '1 minute');
    worker := (select worker_id from leasehold.register_worker(slot, array[stage], '1 day', '1 hour', 'host.test'));
    other := (select worker_id from leasehold.register_worker('other-' || slot, array[stage], '1 day', '1 hour', 'host.test'));
    perform leasehold.submit(stage, key => 'k', concurrency_key => 'c', run_id => stage);
    select jsonb_build_object('taskId', c.task_id::text, 'fence', c.fence::text) into lease
    from leasehold.claim(worker, stage) c;
    child := leasehold.submit(stage, depends_on => array[(lease ->> 'taskId')::bigint], run_id => stage);
    sibling := leasehold.submit(stage, concurrency_key => 'c');
    perform leasehold.submit(stage, priority => 9);
    return next;
  end $$`

const call =
  (sql: string, of: (f: Family) => unknown[]) =>
  (on: Db, f: Family): Promise<unknown> =>
    on.query(`select ${sql}`, of(f))

const verbs: Record<string, (on: Db, f: Family) => Promise<unknown>> = {
  settle: (on, f) => settle(on, f.worker, f.lease, 'done', { children: [{ stage: f.stage }] }),
  'settle in bulk': (on, f) => settleDone(on, f.worker, [f.lease]),
  fail: (on, f) => settle(on, f.worker, f.lease, 'fail', { retryable: false }),
  note: (on, f) =>
    on.query('select leasehold.write_notes($1, $2)', [
      f.worker,
      JSON.stringify([{ task_id: f.lease.taskId, fence: f.lease.fence, kind: 'checkpoint', name: 'n' }]),
    ]),
  beat: (on, f) => beat(on, f.worker),
  'claim by another': (on, f) => claim(on, f.other, f.stage, 10),
  cancel: call('leasehold.cancel_task($1)', (f) => [f.lease.taskId]),
  'cancel the child': call('leasehold.cancel_task($1)', (f) => [f.child]),
  'start the slot again': (on, f) => addWorker(on, [f.stage], { slot: f.slot, ttl: '1 day' }),
  'submit a replacement': call(`leasehold.submit($1, key => 'k', on_key_conflict => 'replace')`, (f) => [
    f.stage,
  ]),
  'submit a child': (on, f) => insertTask(on, f.stage, { depends_on: [f.lease.taskId, f.sibling] }),
  'raise the key limit, and lower it again': call(
    'leasehold.register_stage($1, p_key_limit => 2), leasehold.register_stage($1, p_key_limit => 1)',
    (f) => [f.stage],
  ),
  'release the dead and overdue': call(
    `leasehold.release_dead_workers(), leasehold.expire_deadlines('-1 hour')`,
    () => [],
  ),
}

// What a verb may answer when the other one came first: refused by name, and nothing else.
const refusals = new Set(['55006', 'LH005', '23505'])

async function attempt(act: Promise<unknown>): Promise<string | null> {
  try {
    await act
    return null
  } catch (error) {
    const code = String((error as { code?: unknown }).code)
    return refusals.has(code) ? null : `${code}: ${(error as Error).message}`
  }
}

test.each(Object.keys(verbs))('%s and any other verb at once end without a deadlock', async (first) => {
  for (const second of Object.keys(verbs)) {
    const family = await raise()
    await one.query('begin')
    await two.query('begin')
    const failures = [await attempt(verbs[first]!(one, family))]
    const racing = attempt(verbs[second]!(two, family))
    await waits(db, two, racing)
    await one.query('commit')
    failures.push(await racing)
    await two.query('commit')
    expect(failures, `${first}, then ${second}`).toEqual([null, null])
  }
  expect(await problems(db)).toEqual([])
})
