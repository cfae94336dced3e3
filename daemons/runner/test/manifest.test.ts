/**
 * The runner daemon with a manifest: which worker it becomes, what its programs find, and what it refuses.
 */
import { ConfigError, getTask, taskLogs } from '@leasehold/queue'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../../../test/harness/database.ts'
import { spawnProcess, type TestProcess } from '../../../test/harness/processes.ts'
import { readDeclared } from '../src/declared.ts'
import type { StageSurroundings } from '../src/stages.ts'

let db: TestDatabase
let credentials: string
beforeAll(async () => {
  db = await createTestDatabase()
  credentials = mkdtempSync(join(tmpdir(), 'leasehold-credentials-'))
  writeFileSync(join(credentials, 'VERIFY_KEY'), 'made-up-key\n')
})
afterAll(async () => {
  rmSync(credentials, { recursive: true })
  await db.drop()
})

const config = fileURLToPath(new URL('./fixtures/leasehold.config.ts', import.meta.url))

function daemon(args: readonly string[], env: Record<string, string> = {}): TestProcess {
  return spawnProcess({ script: 'daemons/runner/src/main.ts', args, env: { DATABASE_URL: db.url, ...env } })
}

const surroundings = (): StageSurroundings => ({
  db: db.pool,
  model: { apiKey: null, baseUrl: null, name: null },
  log: () => {},
})

test('it serves the programs and the module of its worker, with the manifest’s settings, and keeps secrets to whom they are for', async () => {
  const runner = daemon(['--config', config, '--slot', 'mixed@2'], {
    CREDENTIALS_DIRECTORY: credentials,
    OTHER_KEY: 'hunter2',
    SMTP_PASSWORD: 'hunter2',
    SMTP_USER: 'me',
    NOTIFY_SOCKET: '/nowhere/made-up',
    SET_BEFORE: 'yes',
    LEASEHOLD_LEASE_TTL_MS: '60000',
    FROM_SERVICE: 'the environment wins',
  })
  await runner.waitForLine(/"event":"slot.taken"/)
  const { rows: workers } = await db.pool.query(
    `select slot, stages, concurrency, extract(epoch from ttl)::int as ttl from leasehold.workers where ended_at is null`,
  )
  expect(workers).toMatchObject([{ slot: 'mixed@2', stages: ['tell', 'second'], concurrency: 3, ttl: 60 }])
  const { rows: expected } = await db.pool.query(
    `select name, expected_workers from leasehold.stages where name in ('tell', 'second') order by name`,
  )
  expect(expected).toEqual([
    { name: 'second', expected_workers: 2 },
    { name: 'tell', expected_workers: 2 },
  ])
  const { rows } = await db.pool.query<{ id: string }>(
    `insert into leasehold.tasks (stage, payload) values ('tell', '{}'), ('second', '{"by": "you"}') returning id::text`,
  )
  const [tell, second] = rows.map(({ id }) => id)
  await expect
    .poll(async () => (await getTask(db.pool, second!))?.result, { timeout: 45_000 })
    .toBe('second for you')
  await expect.poll(async () => (await getTask(db.pool, tell!))?.state, { timeout: 45_000 }).toBe('done')
  const said = (await taskLogs(db.pool, tell!)).map(({ message }) => message)
  expect(said).toEqual(
    expect.arrayContaining([
      'FROM_SERVICE=the environment wins',
      'FROM_STAGE=stage',
      'FROM_WORKER=worker',
      'SET_BEFORE=yes',
      'VERIFY_KEY=made-up-key',
      `LEASEHOLD_TASK_ID=${tell}`,
    ]),
  )
  expect(said.join('\n')).not.toMatch(/hunter2|DATABASE_URL|NOTIFY_SOCKET|CREDENTIALS_DIRECTORY/)
  runner.kill('SIGTERM')
  expect(await runner.exit).toEqual({ code: 0, signal: null })
})

test('what the manifest says of leases and secrets: the one is taken over, the other asked for', async () => {
  const declared = await readDeclared(config, 'mixed@1', {
    LEASEHOLD_LEASE_TTL_MS: '60000',
    FROM_WORKER: ' ',
  })
  expect(declared.variables).toEqual({
    FROM_SERVICE: 'service',
    FROM_WORKER: 'worker',
    LEASEHOLD_LOG_LEVEL: 'debug',
    LEASEHOLD_BEAT_INTERVAL_MS: '5000',
    LEASEHOLD_DRAIN_TIMEOUT_MS: '30000',
    LEASEHOLD_WEDGE_LIMIT_MS: '60000',
  })
  await expect(declared.stages({ VERIFY_KEY: '' }, surroundings())).rejects.toThrow(
    'stages.tell.secrets: VERIFY_KEY is nowhere: neither a file in $CREDENTIALS_DIRECTORY nor a variable',
  )
})

test.each<[string, string, string, string]>([
  ['a slot without a number', config, 'mixed', "--slot: 'mixed' names no worker of the manifest"],
  ['a worker that is misspelt', config, 'mxed@1', 'did you mean mixed@1?'],
  ['a worker of another name', config, 'someone@1', 'which has: '],
  ['a manifest that is missing', 'nowhere.config.ts', 'mixed@1', 'nowhere.config.ts: cannot be read'],
  ['a module that cannot be found', config, 'lost@1', 'worker lost: module: cannot be loaded'],
  ['a module without the stage', config, 'apart@1', "worker apart: stage: 'apart' is not in"],
])('%s is refused with what to do', async (_what, file, slot, words) => {
  const refused = await readDeclared(file, slot, {})
    .then((declared) => declared.stages({}, surroundings()))
    .catch((error: unknown) => error)
  expect(refused).toBeInstanceOf(ConfigError)
  expect((refused as ConfigError).message).toContain(words)
})

test('what stands against the manifest on the command line is a wrong configuration: exit code 2', async () => {
  const runner = daemon(['--config', config, '--module', './x.ts', '--stage', 'y'])
  const { code } = await runner.exit
  expect(code, runner.output()).toBe(2)
  expect(runner.output()).toContain('--module: is said by the manifest')
  expect(runner.output()).toContain('--stage: is said by the manifest')
  expect(runner.output()).not.toMatch(/\n {4}at /) // no stack
})

test('a manifest without a slot is a wrong configuration, too', async () => {
  const runner = daemon(['--config', config])
  expect((await runner.exit).code, runner.output()).toBe(2)
  expect(runner.output()).toContain('--slot: is needed with --config')
})
