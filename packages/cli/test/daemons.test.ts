/**
 * The commands that keep running: the embedded server, a runner, and everything at once; real processes, real signals.
 */
import { openPool, stopEmbedded } from '@leasehold/postgres'
import { registerStage, submit, waitForResult } from '@leasehold/queue'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { type TestProcess, spawnProcess } from '../../../test/harness/processes.ts'
import { stages } from './fixtures/stages.ts'
import { bin, fixtureStages, leasehold, leaseholdJson } from './leasehold.ts'

let db: TestDatabase
let env: { DATABASE_URL: string }
let folder: string

beforeAll(async () => {
  db = await createTestDatabase()
  env = { DATABASE_URL: db.url }
  folder = await mkdtemp(join(tmpdir(), 'leasehold-cli-'))
  for (const stage of stages) await registerStage(db.pool, stage)
})
afterAll(async () => {
  await db.drop()
  await stopEmbedded(folder)
  await rm(folder, { recursive: true, force: true })
})

function start(args: readonly string[], more: Record<string, string> = env): TestProcess {
  return spawnProcess({ script: bin, args, env: more })
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}

async function slots(): Promise<string[]> {
  return (await leaseholdJson<{ slot: string }[]>(['workers'], env)).map(({ slot }) => slot)
}

test('a runner works, stores what its handler says, and leaves with 0 on SIGTERM', async () => {
  const runner = start(['runner', '--module', fixtureStages, '--stage', 'echo', '--slot', 'cli-slot'])
  await runner.waitForLine(/slot taken/)
  const id = await submit(db.pool, 'echo', { a: 1 })
  expect(await waitForResult(db.pool, id, { timeoutMs: 60_000 })).toEqual({ a: 1 })
  const workers = await leaseholdJson<{ slot: string; pid: number }[]>(['workers'], env)
  // The command has become the daemon: what is listed is what can be killed.
  expect(workers).toMatchObject([{ slot: 'cli-slot', pid: runner.pid }])
  expect((await leasehold(['logs', id], env)).stdout).toMatch(/^\S+ \S+Z info +got it \{"fields":1\}\n$/)
  runner.kill('SIGTERM')
  expect(await runner.exit).toEqual({ code: 0, signal: null })
})

test('a runner that is wrongly configured ends with 2', async () => {
  const { code, stderr } = await leasehold(['runner', '--module', fixtureStages, '--stage', 'ehco'], env)
  expect(code).toBe(2)
  expect(stderr).toContain('ehco')
})

test('arguments, settings and stages that are wrong are said at once', async () => {
  const args = ['runner', '--module', fixtureStages, '--stage', 'ehco', '--slot', 'two words']
  const { code, stderr } = await leasehold(args, { ...env, LEASEHOLD_BEAT_INTERVAL_MS: '80000' })
  expect(code).toBe(2)
  expect(stderr).toMatch(
    /3 problems:\n +--slot: .*\n +LEASEHOLD_BEAT_INTERVAL_MS: .*\n +--stage: 'ehco' is not in/,
  )
})

test('control is a daemon like the others, and its options stand for its settings', async () => {
  const { code, stderr } = await leasehold(['control', '--host', 'localhost', '--port', '0'], env)
  expect([code, stderr]).toEqual([
    2,
    expect.stringContaining('LEASEHOLD_CONTROL_HOST: must be an IP address'),
  ])
  expect((await leasehold(['control', '--port', '65536'], env)).code).toBe(2)
  const control = start(['control', '--host', '127.0.0.2', '--port', '0'])
  const listening = JSON.parse(await control.waitForLine(/"event":"control.started"/)) as Record<
    string,
    string
  >
  expect(listening['address']).toMatch(/^127\.0\.0\.2:\d+$/)
  expect((await fetch(`http://${listening['address']}/readyz`)).status).toBe(200)
  control.kill('SIGTERM')
  expect(await control.exit).toEqual({ code: 0, signal: null })
})

test('logs --follow shows each line once, as it comes, and ends with its task', async () => {
  const id = await submit(db.pool, 'endless', {})
  const follower = start(['logs', id, '--follow'])
  const impatient = { ...env, LEASEHOLD_DRAIN_TIMEOUT_MS: '100' }
  const runner = start(['runner', '--module', fixtureStages, '--stage', 'endless'], impatient)
  await follower.waitForLine(/warn +I shall not end by myself/)
  await leasehold(['cancel', id], env)
  await follower.waitForLine(new RegExp(`Task ${id} is cancelled`))
  expect(await follower.exit).toEqual({ code: 0, signal: null })
  expect(follower.output().match(/I shall not end/g)).toHaveLength(1)
  runner.kill('SIGTERM')
  await runner.exit
})

test('dev runs monitor and runners in one terminal, starts again what dies, and drains on Ctrl-C', async () => {
  const dev = start(['dev', '--module', fixtureStages])
  const started = await dev.waitForLine(/^runner +\| started, pid \d+/)
  await dev.waitForLine(/^runner +\| .*slot taken/)
  const id = await submit(db.pool, 'echo', { b: 2 })
  expect(await waitForResult(db.pool, id, { timeoutMs: 60_000 })).toEqual({ b: 2 })
  const seen = dev.output().length
  process.kill(Number(/pid (\d+)/.exec(started)?.[1]), 'SIGKILL')
  await dev.waitForLine(/^runner +\| was ended by SIGKILL; it is started again in 1 s/)
  await dev.waitForLine(/^runner +\| .*slot taken/, { after: seen })
  dev.kill('SIGINT')
  expect(await dev.exit).toEqual({ code: 0, signal: null })
  expect(dev.output()).toMatch(/^runner +\| ended$/m)
  expect(dev.output()).toMatch(/^monitor +\| ended$/m)
  expect(await slots()).not.toContainEqual(expect.stringMatching(/^runner@/))
})

test('a second dev takes the slots of the first one, which does not fight for them', async () => {
  const first = start(['dev', '--module', fixtureStages])
  await first.waitForLine(/^runner +\| .*slot taken/)
  const second = start(['dev', '--module', fixtureStages])
  await second.waitForLine(/^runner +\| .*slot taken over/)
  await first.waitForLine(
    /^runner +\| its slot was taken by another process, which works on; this one stays down/,
  )
  first.kill('SIGINT')
  expect(await first.exit).toEqual({ code: 0, signal: null })
  expect(first.output()).not.toMatch(/^runner +\| .* started again/m)
  const id = await submit(db.pool, 'echo', { c: 3 })
  expect(await waitForResult(db.pool, id, { timeoutMs: 60_000 })).toEqual({ c: 3 })
  second.kill('SIGINT')
  expect(await second.exit).toEqual({ code: 0, signal: null })
})

test('when dev is killed, what it started drains and ends by itself', async () => {
  const dev = start(['dev', '--module', fixtureStages])
  const lines = await Promise.all(
    [/^runner +\| started, pid/, /^monitor +\| started, pid/].map((line) => dev.waitForLine(line)),
  )
  const pids = lines.map((line) => Number(/pid (\d+)/.exec(line)?.[1]))
  await Promise.all([dev.waitForLine(/slot taken/), dev.waitForLine(/monitor started/)])
  dev.kill('SIGKILL')
  await dev.exit
  await expect.poll(() => pids.filter(isAlive)).toEqual([])
  expect(await slots()).not.toContainEqual(expect.stringMatching(/^runner@/))
})

test('dev stops everything when a part of it is wrongly configured', async () => {
  const dev = start(['dev', '--module', fixtureStages, '--stage', 'echo', 'ehco'])
  expect(await dev.exit).toEqual({ code: 2, signal: null })
  expect(dev.output()).toContain('is wrongly configured; everything stops')
})

test(
  'db start owns an embedded server which the other commands find, and stops it on Ctrl-C',
  { timeout: 120_000 },
  async () => {
    const embedded = { LEASEHOLD_DATA_DIR: folder }
    const server = start(['db', 'start'], embedded)
    const ready = await server.waitForLine(/database ready/)
    expect(ready).toMatch(/postgres:\/\/leasehold:\*\*\*@127\.0\.0\.1:\d+\/leasehold/)
    const second = await leasehold(['db', 'start'], embedded)
    expect([second.code, second.stderr]).toEqual([4, expect.stringContaining('It runs already')])
    const { stdout: url } = await leasehold(['db', 'url'], embedded)
    expect(url).toMatch(/^postgres:\/\/leasehold:[^*]+@/)

    expect((await leasehold(['migrate'], embedded)).code).toBe(0)
    expect((await leasehold(['stages'], embedded)).stdout).toContain('company_discovery')
    const unwatched = await leasehold(['doctor'], embedded)
    expect(unwatched.stdout).toMatch(/bad +monitor +never looked/)
    expect(unwatched.code).toBe(1)
    const pool = openPool({ connectionString: url.trim(), applicationName: 'test' })
    await pool.query("select leasehold.monitor_beat(gen_random_uuid(), 'host.example', 1, 'test', 60000)")
    await pool.end()
    const watched = await leasehold(['doctor'], embedded)
    expect([watched.code, watched.stdout]).toEqual([0, expect.stringContaining('Nothing is bad.')])

    server.kill('SIGINT')
    expect(await server.exit).toEqual({ code: 0, signal: null })
    expect((await leasehold(['stages'], embedded)).stderr).toContain('npx leasehold db start')
    expect((await leasehold(['db', 'stop'], embedded)).code).toBe(4)
  },
)

test('db start reports it when its server ends without being asked', async () => {
  const embedded = { LEASEHOLD_DATA_DIR: folder }
  const server = start(['db', 'start'], embedded)
  await server.waitForLine(/database ready/)
  expect((await leasehold(['db', 'stop'], embedded)).code).toBe(0)
  expect((await server.exit).code).toBe(1)
  expect(server.output()).toContain('ended by itself')
})

test('db start starts nothing beside DATABASE_URL', async () => {
  const { code, stderr } = await leasehold(['db', 'start'], env)
  expect(code).toBe(2)
  expect(stderr).toContain('unset DATABASE_URL')
})
