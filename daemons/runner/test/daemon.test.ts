/**
 * The runner daemon as a process: what it is given, what it refuses and with which exit code. What it has in common with
 * the other daemons is tested in test/every-daemon.test.ts.
 */
import { getTask } from '@leasehold/queue'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../../../test/harness/database.ts'
import { spawnProcess, type TestProcess } from '../../../test/harness/processes.ts'

let db: TestDatabase
beforeAll(async () => {
  db = await createTestDatabase()
})
afterAll(() => db.drop())

const fixture = (name: string): string => `./daemons/runner/test/fixtures/${name}.ts`

function daemon(args: readonly string[], env: Record<string, string> = {}): TestProcess {
  return spawnProcess({ script: 'daemons/runner/src/main.ts', args, env: { DATABASE_URL: db.url, ...env } })
}

async function refusal(
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<{ code: number | null; said: string }> {
  const process = daemon(args, env)
  const { code } = await process.exit
  return { code, said: process.output() }
}

test('it serves the stages that a module makes with the database it is given', async () => {
  const runner = daemon(['--module', fixture('created'), '--slot', 'created@1'])
  await runner.waitForLine(new RegExp(`^created with ${db.name} and apiKey,baseUrl,name$`))
  await runner.waitForLine(/"event":"slot.taken"/)
  const { rows } = await db.pool.query<{ id: string }>(
    `insert into leasehold.tasks (stage, payload) values ('first', '{"by": "me"}'), ('second', '{"by": "you"}') returning id::text`,
  )
  await expect
    .poll(async () => (await getTask(db.pool, rows[0]!.id))?.result, { timeout: 10_000 })
    .toBe('first for me')
  await expect
    .poll(async () => (await getTask(db.pool, rows[1]!.id))?.result, { timeout: 10_000 })
    .toBe('second for you')
  const workers = await db.pool.query(
    'select slot, stages, concurrency, pid from leasehold.workers where ended_at is null',
  )
  expect(workers.rows).toEqual([
    { slot: 'created@1', stages: ['first', 'second'], concurrency: 4, pid: runner.pid },
  ])
  runner.kill('SIGTERM')
  expect(await runner.exit).toEqual({ code: 0, signal: null })
})

test('it serves only the stages that are named, on a slot of its own, with the concurrency it is told', async () => {
  const runner = daemon(['--module', fixture('created'), '--stage', 'second', '--concurrency', '7'], {
    RUN_FILTER_ID: 'my-run',
  })
  await runner.waitForLine(/"event":"slot.taken"/)
  const { rows } = await db.pool.query(
    "select slot, stages, meta ->> 'run' as run, concurrency from leasehold.workers where ended_at is null",
  )
  expect(rows).toEqual([
    {
      slot: expect.stringMatching(new RegExp(`^second@.*\\.${runner.pid}$`)),
      stages: [], // it is there for one run only
      run: 'my-run',
      concurrency: 7,
    },
  ])
  const tasks = await db.pool.query<{ id: string }>(
    `insert into leasehold.tasks (stage, payload, run_id) values ('second', '{"by": "x"}', 'other'), ('second', '{"by": "y"}', 'my-run') returning id::text`,
  )
  await expect
    .poll(async () => (await getTask(db.pool, tasks.rows[1]!.id))?.state, { timeout: 10_000 })
    .toBe('done')
  expect((await getTask(db.pool, tasks.rows[0]!.id))?.state).toBe('ready')
  runner.kill('SIGINT')
  expect(await runner.exit).toEqual({ code: 0, signal: null })
})

test.each<[string, string[], Record<string, string>, string[]]>([
  ['an option it does not know', ['--stages', 'x'], {}, ["Unknown option '--stages'"]],
  [
    'a concurrency that is no number',
    ['--concurrency', 'many', '--slot', 'a b'],
    {},
    ['--concurrency', '--slot'],
  ],
  ['a module that is missing', ['--module', './nowhere.ts'], {}, ['--module', 'cannot be loaded']],
  ['a module without stages', ['--module', fixture('empty')], {}, ['exports no stages']],
  [
    'a stage that its module has not',
    ['--module', fixture('created'), '--stage', 'third'],
    {},
    ["'third'", 'first, second'],
  ],
  [
    'an environment with mistakes',
    [],
    { LEASEHOLD_LEASE_TTL_MS: '90', LEASEHOLD_POL_MS: '5' },
    ['LEASEHOLD_LEASE_TTL_MS', 'LEASEHOLD_POLL_MS'],
  ],
])('%s is a wrong configuration: exit code 2, and what to do', async (_what, args, env, words) => {
  const { code, said } = await refusal(args, env)
  expect(code, said).toBe(2)
  for (const word of words) expect(said).toContain(word)
  expect(said).not.toMatch(/\n {4}at /) // no stack
})

test('a module that fails while it is loaded ends the process with 1', async () => {
  const { code, said } = await refusal(['--module', fixture('broken')])
  expect(code).toBe(1)
  expect(said).toContain('this module is broken')
})

test('it starts as a login that has the role leasehold_worker and nothing else', async () => {
  const user = `daemon_${process.pid}`
  await db.pool.query(`create role ${user} login password 'made-up' in role leasehold_worker`)
  const url = new URL(db.url)
  url.username = user
  url.password = 'made-up'
  const runner = daemon(['--module', fixture('created'), '--slot', 'least@1'], { DATABASE_URL: url.href })
  await runner.waitForLine(/"event":"slot.taken"/)
  runner.kill('SIGTERM')
  expect(await runner.exit).toEqual({ code: 0, signal: null })
  await db.pool.query(`drop role ${user}`)
})
