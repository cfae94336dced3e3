/**
 * The hot statements go by their indexes and cost the same on a short and on a long queue, on a fresh one and on one
 * that an old snapshot keeps from being cleaned.
 *
 * Nothing is timed: plans are read as the server reports them (auto_explain), cost is counted in shared buffers and in
 * entries of the lane index that were walked. That floors pass nothing by is floors.test.ts.
 */
import { type Db, listTasks } from '@leasehold/queue'
import type { Client } from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { type Lease, addStage, addWorker, claim, insertTasks, problems, settle, settleDone } from './scene.ts'

let database: TestDatabase
let db: Db
let session: Client
let short: string
let long: string
let worker: string

beforeAll(async () => {
  database = await createTestDatabase()
  db = database.pool
  session = await database.client()
  short = await addStage(db)
  long = await addStage(db)
  worker = await addWorker(db, [short, long], { ttl: '1 day' })
  await insertTasks(db, short, 1000)
  await insertTasks(db, long, 200_000)
  await db.query('analyze leasehold.ready, leasehold.tasks, leasehold.leases')
})
afterAll(() => database.drop())

interface PlanNode {
  readonly 'Node Type': string
  readonly 'Relation Name'?: string
  readonly 'Index Name'?: string
  readonly 'Shared Hit Blocks'?: number
  readonly 'Shared Read Blocks'?: number
  readonly 'Actual Rows'?: number
  readonly 'Actual Loops'?: number
  readonly 'Rows Removed by Filter'?: number
  readonly Plans?: PlanNode[]
}

interface Explained {
  readonly text: string
  readonly nodes: PlanNode[]
}

function flatten(node: PlanNode): PlanNode[] {
  return [node, ...(node.Plans ?? []).flatMap(flatten)]
}

/** The plans of all statements that `act` makes the server run, those inside functions included. */
async function plansOf(act: (on: Client) => Promise<unknown>): Promise<Explained[]> {
  const client = await database.client()
  await client.query(`load 'auto_explain'`)
  for (const [name, value] of Object.entries({
    log_min_duration: '0',
    log_nested_statements: 'on',
    log_analyze: 'on',
    log_buffers: 'on',
    log_timing: 'off',
    log_format: 'json',
    log_level: 'notice',
  })) {
    await client.query(`select set_config($1, $2, false)`, [`auto_explain.${name}`, value])
  }
  const plans: Explained[] = []
  client.on('notice', ({ message = '' }) => {
    const json = /plan:\n(\{.*)$/s.exec(message)?.[1]
    if (json === undefined) return
    const plan = JSON.parse(json) as { 'Query Text': string; Plan: PlanNode }
    plans.push({ text: plan['Query Text'], nodes: flatten(plan.Plan) })
  })
  await act(client)
  await client.end()
  return plans
}

/** Nodes that read one of these tables, a partition included. */
function readersOf(plans: Explained[], tables: string): PlanNode[] {
  return plans
    .flatMap((plan) => plan.nodes)
    .filter((node) => new RegExp(`^(${tables})(_\\d+|_default)?$`).test(node['Relation Name'] ?? ''))
    .filter((node) => node['Node Type'] !== 'ModifyTable')
}

function expectNoScans(plans: Explained[]): void {
  const scans = readersOf(
    plans,
    'ready|leases|tasks|attempts|scheduled|waiting|task_keys|dependencies',
  ).filter((node) => !/^(Index Scan|Index Only Scan|Tid Scan|LockRows)$/.test(node['Node Type']))
  expect(scans).toEqual([])
}

test.each(['short', 'long'])(
  'a claim of a %s queue walks the lane index from its front, without a sort',
  async (which) => {
    const stage = which === 'short' ? short : long
    const plans = await plansOf(async (on) => {
      await on.query('begin')
      await claim(on, worker, stage, 100)
      await on.query('rollback')
    })
    expectNoScans(plans)
    const picking = plans.filter((plan) => /from leasehold\.ready r\b.*skip locked/s.test(plan.text))
    expect(picking.length).toBeGreaterThan(0)
    expect(readersOf(picking, 'ready').map((node) => node['Index Name'])).toContain('ready_by_lane')
    const kinds = picking.flatMap((plan) => plan.nodes).map((node) => node['Node Type'])
    expect(kinds.filter((kind) => kind.includes('Sort'))).toEqual([])
    expect(readersOf(plans, 'tasks').map((node) => node['Index Name'])).not.toEqual([])
  },
)

/** Shared buffers that a query touches when everything is warm: the least of three. */
async function buffersOf(on: Client, sql: string, parameters: unknown[]): Promise<number> {
  const counts = []
  for (let i = 0; i < 3; i++) {
    await on.query('begin')
    const { rows } = await on.query<{ 'QUERY PLAN': [{ Plan: PlanNode }] }>(
      `explain (analyze, buffers, timing off, format json) ${sql}`,
      parameters,
    )
    await on.query('rollback')
    const plan = rows[0]!['QUERY PLAN'][0].Plan
    counts.push((plan['Shared Hit Blocks'] ?? 0) + (plan['Shared Read Blocks'] ?? 0))
  }
  return Math.min(...counts)
}

const claimSql = 'select * from leasehold.claim($1, $2, $3)'

/** Entries of the lane index that a claim of `n` walks, dead ones included. */
async function walkedBy(on: Client, stage: string, n: number): Promise<number> {
  const read = async (): Promise<number> => {
    const { rows } = await on.query<{ n: string }>(
      `select pg_stat_get_xact_tuples_returned('leasehold.ready_by_lane'::regclass) as n`,
    )
    return Number(rows[0]!.n)
  }
  await on.query('begin')
  const before = await read()
  expect(await claim(on, worker, stage, n)).toHaveLength(n)
  const walked = (await read()) - before
  await on.query('rollback')
  return walked
}

test.each([1, 100])('a claim of %i costs the same in 200,000 ready tasks as in 1,000', async (n) => {
  const few = await buffersOf(session, claimSql, [worker, short, n])
  const many = await buffersOf(session, claimSql, [worker, long, n])
  expect(few).toBeLessThan(100 + 40 * n)
  // An index on more rows is a level or two higher; that is all it may cost.
  expect(many).toBeLessThan(few * 1.2 + 20)
  expect(await walkedBy(session, short, n)).toBeLessThan(n + 20)
  expect(await walkedBy(session, long, n)).toBeLessThan(n + 20)
})

/** What a busy runner sends: 100 endings, room for 100 more, one row for the batch that comes. */
const exchangeSql = `select * from leasehold.exchange($1, $2::bigint[], $3::bigint[], null, null, null,
  array[$4], array[100], null, false, null, true)`

async function exchangeOf(stage: string): Promise<unknown[]> {
  const leases = await claim(db, worker, stage, 100)
  return [worker, leases.map(({ taskId }) => taskId), leases.map(({ fence }) => fence), stage]
}

test('what a runner sends, endings and a claim in one, goes by its indexes, without a sort, and costs the same on both', async () => {
  const [few, many] = [await exchangeOf(short), await exchangeOf(long)]
  for (const parameters of [few, many]) {
    const plans = await plansOf(async (on) => {
      await on.query('begin')
      const { rows } = await on.query(exchangeSql, parameters)
      expect(rows).toHaveLength(2) // the batch and the receipt
      await on.query('rollback')
    })
    expectNoScans(plans)
    const hot = plans.filter((plan) => /skip locked|returning|from claimed/s.test(plan.text))
    expect(hot.length).toBeGreaterThanOrEqual(3)
    expect(hot.flatMap((plan) => plan.nodes).filter((node) => node['Node Type'].includes('Sort'))).toEqual([])
    expect(readersOf(hot, 'leases').map((node) => node['Index Name'])).toContain('one_lease_per_task')
  }
  const cost = await buffersOf(session, exchangeSql, few)
  expect(await buffersOf(session, exchangeSql, many)).toBeLessThan(cost * 1.2 + 20)
})

test('a submission reads no more of a long queue than of a short one', async () => {
  const submitSql = `insert into leasehold.tasks (stage, payload) select $1, '{}' from generate_series(1, $2::integer)`
  for (const n of [1, 100]) {
    const plans = await plansOf(async (on) => {
      await on.query('begin')
      await on.query(submitSql, [long, n])
      await on.query('rollback')
    })
    expectNoScans(plans)
    const few = await buffersOf(session, submitSql, [short, n])
    expect(await buffersOf(session, submitSql, [long, n])).toBeLessThan(few * 1.2 + 20)
  }
})

test.each(['stage_health', 'active_leases', 'recent_failures', 'database_health'])(
  '%s reads what runs and a bounded part of what waits, never a whole queue',
  async (view) => {
    const plans = await plansOf((on) => on.query(`select * from leasehold.${view}`))
    const rows = readersOf(plans, 'ready|tasks|attempts|scheduled|waiting').map(
      (node) =>
        (node['Actual Rows'] ?? 0) * (node['Actual Loops'] ?? 1) + (node['Rows Removed by Filter'] ?? 0),
    )
    expect(rows.length).toBeGreaterThan(0)
    expect(Math.max(...rows)).toBeLessThan(2500)
    expect(await buffersOf(session, `select * from leasehold.${view}`, [])).toBeLessThan(3000)
  },
)

const settlements: Record<string, (on: Client, leases: Lease[]) => Promise<unknown>> = {
  'settling in bulk': (on, leases) => settleDone(on, worker, leases),
  'settling one with a result': (on, leases) => settle(on, worker, leases[0]!, 'done', { result: 1 }),
  'a failure': (on, leases) => settle(on, worker, leases[0]!, 'fail'),
  'a release': (on, leases) => settle(on, worker, leases[0]!, 'release'),
  notes: (on, leases) =>
    on.query('select leasehold.write_notes($1, $2)', [
      worker,
      JSON.stringify(
        leases.map(({ taskId, fence }) => ({ task_id: taskId, fence, kind: 'log', message: 'm' })),
      ),
    ]),
}

test.each(Object.keys(settlements))('%s goes to its leases one by one, by task', async (what) => {
  const leases = await claim(db, worker, long, 100)
  const plans = await plansOf((on) => settlements[what]!(on, leases))
  expectNoScans(plans)
  const indexes = readersOf(plans, 'leases').map((node) => node['Index Name'])
  expect(indexes).toContain('one_lease_per_task')
  expect(indexes).not.toContain('leases_by_worker')
})

test('under an old snapshot claims cost the same after 50,000 tasks as before, because floors rise', async () => {
  const fresh = await buffersOf(session, claimSql, [worker, long, 100])
  const reader = await database.client()
  await reader.query('begin isolation level repeatable read')
  await reader.query('select count(*) from leasehold.floors')

  const drain = async (tasks: number): Promise<void> => {
    for (let left = tasks; left > 0; left -= 500) {
      expect(await settleDone(session, worker, await claim(session, worker, long, 500))).toEqual([])
    }
  }
  const tick = (): Promise<unknown> => session.query('select leasehold.advance_floors()')
  for (let round = 0; round < 8; round++) {
    await drain(5000)
    await tick()
  }
  await drain(10_000)
  // What it is without a tick: the dead entries of the last 10,000 stand before the first live one.
  expect(await walkedBy(session, long, 100)).toBeGreaterThan(10_000)
  await tick()
  await tick()
  expect(await walkedBy(session, long, 100)).toBeLessThan(200)
  expect(await buffersOf(session, claimSql, [worker, long, 100])).toBeLessThan(fresh * 1.5)
  const [lease] = await claim(session, worker, long, 1)
  const settleSql = `select leasehold.settle($1, $2, $3, 'done')`
  expect(await buffersOf(session, settleSql, [worker, lease!.taskId, lease!.fence])).toBeLessThan(150)

  await reader.query('rollback')
  expect(await problems(db)).toEqual([])
})

test.each(['done', 'cancelled', undefined] as const)(
  'a list of a stage (%s) with few tasks looks at the newest ids only, however many tasks there are',
  async (state) => {
    const rare = await addStage(db)
    const filter = { stage: rare, withinIds: 1000, ...(state !== undefined && { state }) }
    const plans = await plansOf((on) => listTasks(on, filter))
    const readers = readersOf(plans, 'tasks|attempts')
    const blocks = readers.reduce(
      (sum, node) => sum + (node['Shared Hit Blocks'] ?? 0) + (node['Shared Read Blocks'] ?? 0),
      0,
    )
    expect(readers.length).toBeGreaterThan(0)
    expect(blocks).toBeLessThan(200)
  },
)

test('the look for tasks below their floors reads the floors, not the tasks that wait above them', async () => {
  const plans = await plansOf((on) => on.query('select * from leasehold.invariant_violations'))
  const look = plans.filter((plan) => plan.text.includes('position < f.floor'))
  expect(readersOf(look, 'ready').map((node) => node['Index Name'])).toContain('ready_by_lane')
  // What was drained above stands before the floors as dead entries, until nobody's snapshot (an autoanalyze's) keeps them.
  await expect.poll(() => buffersOf(session, 'select * from leasehold.below_floors()', [])).toBeLessThan(500)
})

test('the look for violations asks task by task, also while statistics call leases a large table', async () => {
  await claim(db, worker, long, 500)
  const plans = await plansOf(async (on) => {
    await on.query('begin')
    // As an autoanalyze at the height of a burst leaves it. The planner takes the density of rows from here.
    await on.query(
      `update pg_class set reltuples = 1e7, relpages = 10 where oid = 'leasehold.leases'::regclass`,
    )
    await on.query('select * from leasehold.invariant_violations')
    await on.query('rollback')
  })
  const scans = readersOf(plans, 'ready').filter((node) => (node['Actual Rows'] ?? 0) > 1000)
  expect(readersOf(plans, 'ready').length).toBeGreaterThan(0)
  expect(scans).toEqual([])
})
