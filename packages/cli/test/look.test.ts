/**
 * The commands that only look, on a database with a task in every state: text for people, JSON for programs.
 */
import type {
  ActiveLease,
  Explanation,
  RunStageProgress,
  RunSummary,
  StageHealth,
  TaskStatus,
  TaskSummary,
  WorkerHealth,
} from '@leasehold/queue'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { type Population, populate } from '../../../test/harness/population.ts'
import { leasehold, leaseholdJson } from './leasehold.ts'

let db: TestDatabase
let ids: Population
let env: { DATABASE_URL: string }

beforeAll(async () => {
  db = await createTestDatabase()
  ids = await populate(db)
  env = { DATABASE_URL: db.url }
})
afterAll(() => db.drop())

test('tasks lists the newest first, and a state finds its task', async () => {
  const all = await leaseholdJson<TaskSummary[]>(['tasks', '--run', 'run-1'], env)
  expect(all.map((task) => task.taskId)).toEqual(
    Object.values(ids)
      .slice(0, 7)
      .sort((a, b) => Number(b) - Number(a)),
  )
  for (const state of ['running', 'dead'] as const) {
    const tasks = await leaseholdJson<TaskSummary[]>(['tasks', '--state', state], env)
    expect(tasks.map((task) => [task.taskId, task.state])).toEqual([[ids[state], state]])
  }
})

async function found(...args: string[]): Promise<string[]> {
  return (await leaseholdJson<TaskSummary[]>(['tasks', ...args], env)).map((task) => task.taskId)
}

test('tasks can be narrowed by stage, key, page and number', async () => {
  expect(await found('--stage', 'endless')).toEqual([ids.running])
  expect(await found('--key', 'key-dead')).toEqual([ids.dead])
  expect(await found('--before', ids.running, '--limit', '1')).toEqual([ids.cancelled])
  expect(await found('--run', 'no such run')).toEqual([])
})

test('a list is plain text without colours when it is piped, and cannot drive the terminal', async () => {
  const { stdout, code } = await leasehold(['tasks'], { ...env, TERM: 'xterm-256color' })
  expect(code).toBe(0)
  expect(stdout).not.toContain('\u001b')
  expect(stdout).toContain('long \\e[31mtitle')
  expect(stdout).toContain('E_BROKEN: it is \\e[31mbroken')
  expect(stdout.split('\n')[0]).toMatch(
    /^ID +STAGE +STATE +SUBMITTED +ATTEMPT +RUN +KEY +TITLE OR LAST ERROR$/,
  )
})

test('a list that was cut says how to see the next page', async () => {
  const { stderr } = await leasehold(['tasks', '--limit', '2'], env)
  expect(stderr).toContain(`--before ${ids.scheduled}`)
})

test('show tells state, payload, attempts and result of a task', async () => {
  const { stdout } = await leasehold(['show', ids.done], env)
  expect(stdout).toMatch(/^state +done$/m)
  expect(stdout).toMatch(/"n": 1/)
  expect(stdout).toMatch(/"answer": 42/)
  expect(stdout).toMatch(/^1 +done /m)
  const page = await leaseholdJson<{ task: TaskStatus; submitted: { dependsOn: string[] } }>(
    ['show', ids.waiting],
    env,
  )
  expect(page.task.state).toBe('waiting')
  expect(page.submitted.dependsOn).toEqual([ids.ready])
})

test('why tells the one reason and the command that helps', async () => {
  const { stdout } = await leasehold(['why', ids.scheduled], env)
  expect(stdout).toContain('It is to start at 2100-01-01')
  expect(stdout).toContain(`npx leasehold run-now ${ids.scheduled}`)
  const why = await leaseholdJson<Explanation & { taskId: string }>(['why', ids.waiting], env)
  expect(why).toMatchObject({ taskId: ids.waiting, state: 'waiting', reasonCode: 'parents_open' })
})

test('stages, workers and status agree with what is there', async () => {
  const stages = await leaseholdJson<StageHealth[]>(['stages'], env)
  expect(
    stages.map(({ stage, ready, running, scheduled, waiting }) => [
      stage,
      ready,
      running,
      scheduled,
      waiting,
    ]),
  ).toEqual([
    ['broken', 0, 0, 0, 0],
    ['echo', 1, 0, 1, 1],
    ['endless', 0, 1, 0, 0],
  ])
  const workers = await leaseholdJson<WorkerHealth[]>(['workers', '--stage', 'echo'], env)
  expect(workers.map(({ slot, status }) => [slot, status])).toEqual([
    ['slot-1', expect.stringMatching(/^(idle|working)$/)],
    ['slot-2', 'dead'],
  ])
  const dead = await leaseholdJson<ActiveLease[]>(['workers', '--dead'], env)
  expect(dead.map(({ slot }) => slot)).toEqual(['slot-2'])
  const { stdout } = await leasehold(['status'], env)
  for (const word of ['Stages', 'Workers', 'Open incidents', 'slot-2', 'endless', 'never looked']) {
    expect(stdout).toContain(word)
  }
  const password = new URL(db.url).password
  if (password !== '') expect(stdout).not.toContain(password)
})

test('runs sums up each run, and one run in detail says why it does not move', async () => {
  const runs = await leaseholdJson<RunSummary[]>(['runs'], env)
  expect(runs).toMatchObject([
    {
      runId: 'run-1',
      submitted: 7,
      done: 1,
      dead: 1,
      cancelled: 1,
      open: 4,
      stages: ['broken', 'echo', 'endless'],
    },
  ])
  const detail = await leaseholdJson<{
    stages: RunStageProgress[]
    holdups: (Explanation & { taskId: string })[]
  }>(['runs', 'run-1'], env)
  expect(detail.stages.map(({ stage, open }) => [stage, open])).toEqual([
    ['broken', 0],
    ['echo', 3],
    ['endless', 1],
  ])
  expect(detail.holdups.map(({ taskId, state }) => [taskId, state])).toEqual([
    [ids.ready, 'ready'],
    [ids.waiting, 'waiting'],
    [ids.scheduled, 'scheduled'],
    [ids.running, 'running'],
  ])
  const { stdout } = await leasehold(['runs', 'run-1'], env)
  expect(stdout).toContain('Run run-1: 4 unfinished')
})

test('a task, a run and a page that do not exist end with code 3 and a hint', async () => {
  for (const args of [
    ['show', '999999'],
    ['why', '999999'],
    ['logs', '999999'],
    ['runs', 'nobody'],
    ['export', 'nobody'],
  ]) {
    const { code, stdout, stderr } = await leasehold(args, env)
    expect([args[0], code]).toEqual([args[0], 3])
    expect(stdout).toBe('')
    expect(stderr).toMatch(/^error: .*\nhint: /)
  }
})

test('export writes every task of a run as CSV, as JSON, and into a file', async () => {
  const csv = await leasehold(['export', 'run-1', '--csv'], env)
  const lines = csv.stdout.trimEnd().split('\n')
  expect(lines[0]).toBe('task_id,stage,state,title,key,attempt,submitted_at,ended_at,result,error')
  expect(lines).toHaveLength(8)
  expect(csv.stdout).toContain('"{""answer"":42}"')
  const rows = await leaseholdJson<{ task_id: string; state: string }[]>(['export', 'run-1'], env)
  expect(rows.map((row) => row.task_id)).toEqual(lines.slice(1).map((line) => line.split(',')[0]))
})
