/**
 * Every state × every verb: what is allowed moves the task as the contract says, everything else changes nothing.
 *
 * Each pair is played in one transaction that is rolled back, so the snapshot before and after is the whole database.
 * A cell 'answer' claims that all state tables are row for row what they were; 'answer > state' names the new state.
 * After every pair the audit must be empty. Races between verbs are lock-order.test.ts and fencing.test.ts.
 */
import type { Db } from '@leasehold/queue'
import { type Client, DatabaseError } from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import {
  addStage,
  addWorker,
  beat,
  claim,
  claimOne,
  insertTask,
  problems,
  releaseDead,
  settle,
  settleDone,
  snapshot,
  stateOf,
} from './scene.ts'

let database: TestDatabase
let client: Client

beforeAll(async () => {
  database = await createTestDatabase()
  client = await database.client()
})
afterAll(() => database.drop())

/** One task, the worker and fence that hold it (or held it last), and a second live worker. */
interface Play {
  readonly db: Db
  readonly stage: string
  readonly worker: string
  readonly other: string
  readonly taskId: string
  readonly fence: string
}

type Setting = Omit<Play, 'taskId' | 'fence'>
type Found = Pick<Play, 'taskId' | 'fence'>

async function advance(db: Db, interval: string): Promise<void> {
  await db.query('update leasehold_test.clock set ahead = ahead + $1::interval', [interval])
}

async function run({ db, worker, stage }: Setting): Promise<Found> {
  await insertTask(db, stage)
  return claimOne(db, worker, stage)
}

const neverLeased = '1'

const states = {
  ready: async ({ db, stage }) => ({ taskId: await insertTask(db, stage), fence: neverLeased }),
  running: run,
  'running with an expired worker': async (set) => {
    const lease = await run(set)
    await advance(set.db, '31 seconds')
    return lease
  },
  'running past its deadline': async (set) => {
    const lease = await run(set)
    await advance(set.db, '10 minutes')
    await beat(set.db, set.worker)
    return lease
  },
  scheduled: async ({ db, stage }) => {
    const taskId = await insertTask(db, stage, { run_at: new Date(Date.now() + 86_400_000) })
    return { taskId, fence: neverLeased }
  },
  'in its backoff': async (set) => {
    const lease = await run(set)
    await settle(set.db, set.worker, lease, 'fail')
    return lease
  },
  'waiting for a parent': async ({ db, stage, other }) => {
    const parent = await insertTask(db, await addStage(db))
    const taskId = await insertTask(db, stage, { depends_on: [parent] })
    await claim(db, other, stage) // takes the nudge away
    return { taskId, fence: neverLeased }
  },
  'waiting for its key': async ({ db, stage, other }) => {
    await insertTask(db, stage, { concurrency_key: 'k', timeout: '1 day' })
    await claimOne(db, other, stage)
    const taskId = await insertTask(db, stage, { concurrency_key: 'k' })
    await claim(db, other, stage)
    return { taskId, fence: neverLeased }
  },
  done: async (set) => {
    const lease = await run(set)
    await settle(set.db, set.worker, lease, 'done')
    return lease
  },
  dead: async (set) => {
    const lease = await run(set)
    await settle(set.db, set.worker, lease, 'fail', { retryable: false })
    return lease
  },
  cancelled: async (set) => {
    const lease = await run(set)
    await set.db.query('select leasehold.cancel_task($1)', [lease.taskId])
    await beat(set.db, set.worker) // takes the revocation away
    return lease
  },
  unknown: () => Promise.resolve({ taskId: '999999999', fence: neverLeased }),
} satisfies Record<string, (set: Setting) => Promise<Found>>

type State = keyof typeof states

interface Verb {
  act(play: Play): Promise<unknown>
  /** 'answer': and nothing changes. 'answer > state': the state after it. */
  expected: Partial<Record<State, string>> & { otherwise: string }
}

async function ask(db: Db, call: string, taskId: string): Promise<unknown> {
  const { rows } = await db.query<{ answer: unknown }>(`select ${call} as answer`, [taskId])
  return rows[0]!.answer
}

async function note(db: Db, worker: string, taskId: string, fence: string): Promise<number> {
  const notes = [
    { task_id: taskId, fence, kind: 'log', message: 'still here' },
    { task_id: taskId, fence, kind: 'progress', fraction: 0.5 },
    { task_id: taskId, fence, kind: 'checkpoint', name: 'half', value: 1 },
  ]
  const { rows } = await db.query<{ written: number }>('select leasehold.write_notes($1, $2) as written', [
    worker,
    JSON.stringify(notes),
  ])
  return rows[0]!.written
}

const refusedDone = async (p: Play, worker: string, fence: string): Promise<boolean> =>
  (await settleDone(p.db, worker, [{ taskId: p.taskId, fence }])).length === 1
const oldFence = (p: Play): string => String(BigInt(p.fence) - 1n)

const verbs: Record<string, Verb> = {
  claim: {
    act: async (p) => (await claim(p.db, p.other, p.stage, 5)).length,
    expected: { ready: '1 > running', otherwise: '0' },
  },
  'settle as done': {
    act: (p) => settle(p.db, p.worker, p, 'done', { result: { ok: true } }),
    expected: { running: 'true > done', otherwise: 'false' },
  },
  'settle as failed': {
    act: (p) => settle(p.db, p.worker, p, 'fail', { error: { code: 'test', message: 'no' } }),
    expected: {
      running: 'true > scheduled',
      'running past its deadline': 'true > scheduled',
      otherwise: 'false',
    },
  },
  'settle as failed for good': {
    act: (p) => settle(p.db, p.worker, p, 'fail', { retryable: false }),
    expected: { running: 'true > dead', 'running past its deadline': 'true > dead', otherwise: 'false' },
  },
  release: {
    act: (p) => settle(p.db, p.worker, p, 'release'),
    expected: { running: 'true > ready', otherwise: 'false' },
  },
  snooze: {
    act: (p) => settle(p.db, p.worker, p, 'snooze', { retry_after: '1 minute' }),
    expected: { running: 'true > scheduled', otherwise: 'false' },
  },
  'settle as cancelled': {
    act: (p) => settle(p.db, p.worker, p, 'cancel'),
    expected: { running: 'true > cancelled', otherwise: 'false' },
  },
  'settle with an old fence': {
    act: async (p) => {
      const answers = []
      for (const outcome of ['done', 'fail', 'release', 'snooze', 'cancel'] as const) {
        answers.push(await settle(p.db, p.worker, { taskId: p.taskId, fence: oldFence(p) }, outcome))
      }
      return answers.some(Boolean)
    },
    expected: { otherwise: 'false' },
  },
  'settle by another worker': {
    act: async (p) => {
      const answers = []
      for (const outcome of ['done', 'fail', 'release', 'snooze', 'cancel'] as const) {
        answers.push(await settle(p.db, p.other, p, outcome))
      }
      return answers.some(Boolean)
    },
    expected: { otherwise: 'false' },
  },
  'settle in bulk': {
    act: async (p) => !(await refusedDone(p, p.worker, p.fence)),
    expected: { running: 'true > done', otherwise: 'false' },
  },
  'settle in bulk with an old fence or by another worker': {
    act: async (p) =>
      !((await refusedDone(p, p.worker, oldFence(p))) && (await refusedDone(p, p.other, p.fence))),
    expected: { otherwise: 'false' },
  },
  'write notes': {
    act: (p) => note(p.db, p.worker, p.taskId, p.fence),
    expected: { running: '3 > running', 'running past its deadline': '3 > running', otherwise: '0' },
  },
  'write notes with an old fence or as another worker': {
    act: async (p) =>
      (await note(p.db, p.worker, p.taskId, oldFence(p))) + (await note(p.db, p.other, p.taskId, p.fence)),
    expected: { otherwise: '0' },
  },
  beat: { act: (p) => beat(p.db, p.worker), expected: { otherwise: 'live' } },
  cancel_task: {
    act: (p) => ask(p.db, 'leasehold.cancel_task($1)', p.taskId),
    expected: {
      done: 'false',
      dead: 'false',
      cancelled: 'false',
      unknown: 'LH002',
      otherwise: 'true > cancelled',
    },
  },
  retry_task: {
    act: (p) => ask(p.db, 'leasehold.retry_task($1)', p.taskId),
    expected: { dead: 'true > ready', cancelled: 'true > ready', unknown: 'LH002', otherwise: 'false' },
  },
  run_now: {
    act: (p) => ask(p.db, 'leasehold.run_now($1)', p.taskId),
    expected: {
      ready: 'true > ready',
      scheduled: 'true > ready',
      'in its backoff': 'true > ready',
      'waiting for a parent': 'LH005',
      'waiting for its key': 'LH005',
      unknown: 'LH002',
      otherwise: 'false',
    },
  },
  explain_task: {
    act: (p) => ask(p.db, `(select state || '/' || reason_code from leasehold.explain_task($1))`, p.taskId),
    expected: {
      ready: 'ready/about_to_start',
      running: 'running/running',
      'running with an expired worker': 'running/worker_silent',
      'running past its deadline': 'running/running',
      scheduled: 'scheduled/run_at',
      'in its backoff': 'scheduled/backoff',
      'waiting for a parent': 'waiting/parents_open',
      'waiting for its key': 'waiting/concurrency_key',
      done: 'done/done',
      dead: 'dead/failed',
      cancelled: 'cancelled/cancelled',
      otherwise: 'unknown/no_such_task',
    },
  },
  'the death of its worker': {
    act: async (p) => {
      await advance(p.db, '31 seconds')
      return (await releaseDead(p.db)).includes(p.worker)
    },
    expected: {
      running: 'true > ready',
      'running with an expired worker': 'true > ready',
      'running past its deadline': 'true > ready',
      otherwise: 'true',
    },
  },
  'the expiry of its deadline': {
    act: async (p) => {
      await advance(p.db, '10 minutes 6 seconds')
      return (await ask(p.db, 'cardinality(leasehold.expire_deadlines()) + 0 * $1::bigint', p.taskId)) === '1'
    },
    expected: {
      running: 'true > scheduled',
      'running with an expired worker': 'true > scheduled',
      'running past its deadline': 'true > scheduled',
      otherwise: 'false',
    },
  },
}

async function answer(play: Play, verb: Verb): Promise<string> {
  await play.db.query('savepoint before_verb')
  try {
    return String(await verb.act(play))
  } catch (error) {
    if (!(error instanceof DatabaseError)) throw error
    await play.db.query('rollback to savepoint before_verb')
    return String(error.code)
  }
}

describe.each(Object.entries(verbs))('%s', (_, verb) => {
  test.each(Object.keys(states) as State[])('of a task that is %s', async (state) => {
    await client.query('begin')
    try {
      const stage = await addStage(client, {
        timeout: '10 minutes',
        backoff_min: '20 s',
        backoff_max: '20 s',
      })
      const worker = await addWorker(client, [stage])
      const other = await addWorker(client, [stage], { ttl: '1 hour' })
      const set: Setting = { db: client, stage, worker, other }
      const play: Play = { ...set, ...(await states[state](set)) }
      const [expected, after] = (verb.expected[state] ?? verb.expected.otherwise).split(' > ')
      const before = after === undefined ? await snapshot(client) : undefined
      const stateBefore = await stateOf(client, play.taskId)

      expect(await answer(play, verb)).toBe(expected)
      if (after === undefined) expect(await snapshot(client)).toEqual(before)
      expect(await stateOf(client, play.taskId)).toBe(after ?? stateBefore)
      expect(await problems(client)).toEqual([])
    } finally {
      await client.query('rollback')
    }
  })
})
