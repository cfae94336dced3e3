/**
 * The commands that change something: submit, cancel, retry, run-now, pause, resume; what they do and how they end.
 */
import { getTask, listStages, readPayload } from '@leasehold/queue'
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

async function stateOf(id: string): Promise<string | undefined> {
  return (await getTask(db.pool, id))?.state
}

test('submit prints the id and passes every option on', async () => {
  const args = [
    '--priority',
    '8',
    '--run-at',
    '+1h',
    '--key',
    'k',
    '--run',
    'r',
    '--title',
    't',
    '--max-attempts',
    '7',
  ]
  const more = ['--timeout', '90s', '--concurrency-key', 'c', '--meta', '[1.10]', '--depends-on', ids.ready]
  const { code, stdout } = await leasehold(
    ['submit', 'echo', '{"id": 9007199254740993}', ...args, ...more],
    env,
  )
  expect(code).toBe(0)
  expect(stdout).toMatch(/^\d+\n$/)
  const id = stdout.trim()
  const task = await getTask(db.pool, id)
  expect(task).toMatchObject({
    stage: 'echo',
    key: 'k',
    runId: 'r',
    title: 't',
    maxAttempts: 7,
    concurrencyKey: 'c',
  })
  expect(task?.runAt?.getTime()).toBeGreaterThan(Date.now() + 3_000_000)
  expect(await readPayload(db.pool, id)).toEqual({
    payloadJson: '{"id": 9007199254740993}',
    metaJson: '[1.10]',
    priority: 8,
    timeoutMs: 90_000,
    dependsOn: [ids.ready],
  })
})

test('submit reads a payload of any size from standard input', async () => {
  const payload = JSON.stringify({ text: 'x'.repeat(300_000) })
  const { stdout, code } = await leasehold(['submit', 'echo', '-', '--json'], env, payload)
  expect(code).toBe(0)
  const { taskId } = JSON.parse(stdout) as { taskId: string }
  expect((await readPayload(db.pool, taskId))?.payloadJson).toHaveLength(payload.length + 1)
})

test('submit keeps or replaces the task that holds a key, or refuses', async () => {
  const args = ['submit', 'echo', '{}', '--key', 'key-scheduled', '--on-key-conflict']
  expect((await leasehold([...args, 'keep'], env)).stdout.trim()).toBe(ids.scheduled)
  const refused = await leasehold([...args, 'error'], env)
  expect(refused.code).toBe(1)
  expect(refused.stderr).toContain('--on-key-conflict keep')
  expect((await leasehold([...args, 'replace'], env)).code).toBe(0)
  expect(await stateOf(ids.scheduled)).toBe('cancelled')
})

test('what cannot be submitted is refused with the reason and a hint, and leaves nothing', async () => {
  const cases: [args: string[], code: number, says: RegExp][] = [
    [['submit', 'ehco'], 3, /unknown stage 'ehco'.*'echo'/],
    [['submit', 'echo', '{"a":'], 2, /the payload is not JSON/],
    [['submit', 'echo', '{}', '--priority', '10'], 2, /from 0 to 9/],
    [['submit', 'echo', '{}', '--run-at', 'tomorrow'], 2, /is no moment/],
    [['submit', 'echo', '{}', '--depends-on', '999999'], 1, /cannot depend on task 999999/],
    [['submit', 'echo', '"\\u0000"'], 2, /\\u0000/],
    [['submit'], 2, /missing required argument/],
  ]
  const { rows: before } = await db.pool.query('select count(*) from leasehold.tasks')
  for (const [args, code, says] of cases) {
    const result = await leasehold(args, env)
    expect([args.join(' '), result.code, result.stdout]).toEqual([args.join(' '), code, ''])
    expect(result.stderr).toMatch(says)
    expect(result.stderr).toMatch(/^hint: /m)
  }
  const { rows: after } = await db.pool.query('select count(*) from leasehold.tasks')
  expect(after).toEqual(before)
})

test('cancel ends a running task, and says by its exit code when there was nothing to do or to find', async () => {
  expect(await leasehold(['cancel', ids.running, '--reason', 'not needed'], env)).toMatchObject({
    code: 0,
    stdout: `task ${ids.running} cancelled\n`,
  })
  expect((await getTask(db.pool, ids.running))?.lastError).toMatchObject({ message: 'not needed' })
  expect(await leasehold(['cancel', ids.running], env)).toMatchObject({
    code: 4,
    stdout: `task ${ids.running} had ended already\n`,
  })
  const mixed = await leasehold(['cancel', ids.done, '999999', '--json'], env)
  expect(mixed.code).toBe(3)
  expect(JSON.parse(mixed.stdout)).toMatchObject([
    { taskId: ids.done, result: 'nothing-done' },
    { taskId: '999999', result: 'not-found' },
  ])
})

test('retry reopens dead and cancelled tasks, by id or all dead ones of a stage', async () => {
  expect(await leasehold(['retry', ids.cancelled], env)).toMatchObject({ code: 0 })
  expect(await stateOf(ids.cancelled)).toBe('ready')
  expect(await leaseholdJson(['retry', '--dead', '--stage', 'broken'], env)).toMatchObject([
    { taskId: ids.dead, result: 'done' },
  ])
  expect(await stateOf(ids.dead)).toBe('ready')
  const again = await leasehold(['retry', '--dead', '--stage', 'broken'], env)
  expect([again.code, again.stderr]).toEqual([4, 'Stage broken has no dead task.\n'])
  expect((await leasehold(['retry', ids.done], env)).code).toBe(4)
})

test('retry refuses to guess what is meant', async () => {
  for (const args of [[], ['--dead'], ['7', '--dead', '--stage', 'broken'], ['7', '--stage', 'broken']]) {
    const { code, stderr } = await leasehold(['retry', ...args], env)
    expect([args, code]).toEqual([args, 2])
    expect(stderr).toMatch(/^hint: /m)
  }
  expect((await leasehold(['retry', '--dead', '--stage', 'nowhere'], env)).code).toBe(3)
})

test('run-now puts a scheduled task first, and names what holds back one that waits', async () => {
  const { stdout } = await leasehold(['submit', 'echo', '{}', '--run-at', '2100-01-01'], env)
  expect((await leasehold(['run-now', stdout.trim()], env)).code).toBe(0)
  expect(await stateOf(stdout.trim())).toBe('ready')
  const held = await leasehold(['run-now', ids.waiting], env)
  expect(held.code).toBe(4)
  expect(held.stdout).toContain(`npx leasehold why ${ids.waiting}`)
})

test('pause and resume turn a stage off and on', async () => {
  expect((await leasehold(['pause', 'echo', '--until', '+2h'], env)).stdout).toMatch(
    /^stage echo is paused until 20/,
  )
  expect((await listStages(db.pool, { stage: 'echo' }))[0]).toMatchObject({ paused: true })
  expect((await leasehold(['resume', 'echo'], env)).code).toBe(0)
  expect((await leasehold(['resume', 'echo'], env)).code).toBe(4)
  expect((await leasehold(['pause', 'nowhere'], env)).code).toBe(3)
})
