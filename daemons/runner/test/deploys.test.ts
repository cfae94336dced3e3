/**
 * Deploys: a schema that becomes newer under runners and before them, draining, and a rolling restart. Real processes;
 * the migrations of the next release are made up.
 */
import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { migrate } from '@leasehold/postgres'
import { checkWorkerVersions, registerWorker, submit, waitForResult } from '@leasehold/queue'
import { beforeEach, expect, test } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../../../test/harness/database.ts'
import { spawnProcess, type TestProcess } from '../../../test/harness/processes.ts'

let db: TestDatabase
let folder: string
beforeEach(async () => {
  db = await createTestDatabase()
  folder = await mkdtemp(join(tmpdir(), 'leasehold-next-'))
  await cp(fileURLToPath(new URL('../../../migrations/', import.meta.url)), folder, { recursive: true })
  return async () => {
    await db.drop()
    await rm(folder, { recursive: true, force: true })
  }
})

const next = (head: string): Promise<void> =>
  writeFile(
    join(folder, '9999_next.sql'),
    `${head}\ncreate table leasehold.made_up (id bigint primary key);\n`,
  )

function runner(slot: string): TestProcess {
  const module = './daemons/runner/test/fixtures/created.ts'
  return spawnProcess({
    script: 'daemons/runner/src/main.ts',
    args: ['--module', module, '--stage', 'first', '--slot', slot],
    env: { DATABASE_URL: db.url, LEASEHOLD_POLL_MS: '200' },
  })
}

function leasehold(...args: string[]): TestProcess {
  return spawnProcess({ script: 'packages/cli/src/main.ts', args, env: { DATABASE_URL: db.url } })
}

async function works(): Promise<void> {
  const id = await submit(db.pool, 'first', { by: 'me' })
  expect(await waitForResult(db.pool, id, { timeoutMs: 20_000 })).toBe('first for me')
}

test('runners go on under a newer schema and start on it, and everybody sees that they are older', async () => {
  const before = runner('before@1')
  await before.waitForLine(/"event":"slot.taken"/)
  expect(await checkWorkerVersions(db.pool)).toMatchObject({
    status: 'ok',
    value: expect.stringMatching(/^1 × 0/),
  })
  await next('-- adds a table')
  expect(await migrate(db.url, { folder })).toMatchObject({ applied: ['9999_next'] })
  await works()
  before.kill('SIGTERM')
  expect(await before.exit).toEqual({ code: 0, signal: null })

  const after = runner('after@1')
  await after.waitForLine(/"event":"schema.newer".*"database":"9999_next"/)
  await after.waitForLine(/"event":"slot.taken"/)
  await works()
  const { rows } = await db.pool.query(
    'select workers, slots, older_than_schema from leasehold.worker_versions',
  )
  expect(rows).toEqual([{ workers: 1, slots: ['after@1'], older_than_schema: true }])
  const status = leasehold('status')
  await status.exit
  expect(status.output()).toMatch(/worker versions[^]*older than the database[^]*after@1/)
})

test('a migration that says -- drain is refused while runners live; after it older ones are, before their first claim', async () => {
  const one = runner('one@1')
  await one.waitForLine(/"event":"slot.taken"/)
  await next('-- drain: a column changes its meaning')
  await expect(migrate(db.url, { folder })).rejects.toMatchObject({
    code: 'WORKERS_LIVE',
    message: expect.stringMatching(/one@1.*leasehold drain --all --wait/),
  })
  expect((await db.pool.query("select to_regclass('leasehold.made_up') as made")).rows).toEqual([
    { made: null },
  ])

  const drain = leasehold('drain', '--all', '--wait')
  expect(await drain.exit).toEqual({ code: 0, signal: null })
  expect(drain.output()).toContain('one@1 has left')
  expect(await one.exit).toEqual({ code: 0, signal: null })
  expect(await migrate(db.url, { folder })).toMatchObject({ applied: ['9999_next'] })

  const waiting = await submit(db.pool, 'first', { by: 'me' })
  const late = runner('late@1')
  expect(await late.exit).toEqual({ code: 1, signal: null })
  expect(late.output()).toContain('newer than this program')
  // One that had looked at the schema just before is refused by the database itself.
  const introduction = { slot: 'racing@1', stages: ['first'], leaseTtlMs: 9_000, beatIntervalMs: 3_000 }
  const facts = { host: 'crane.example', pid: 1, version: 'old', concurrency: 1 }
  await expect(
    registerWorker(db.pool, { ...introduction, ...facts, meta: { schema: '0011_incident_kinds' } }),
  ).rejects.toMatchObject({ code: 'SCHEMA_VERSION', message: expect.stringContaining('9999_next') })
  const claims = await db.pool.query('select from leasehold.attempts where task_id = $1', [waiting])
  expect(claims.rowCount).toBe(0)
  expect((await db.pool.query('select from leasehold.workers where ended_at is null')).rowCount).toBe(0)
})

test('a rolling drain goes from slot to slot and waits for each to be started again', async () => {
  const running = new Map([1, 2].map((n) => [`roll@${n}`, runner(`roll@${n}`)]))
  await Promise.all([...running.values()].map((process) => process.waitForLine(/"event":"slot.taken"/)))
  let stopped = false
  // What a service manager does.
  const manage = async (slot: string): Promise<void> => {
    const { code } = await running.get(slot)!.exit
    expect(code).toBe(0)
    if (stopped) return
    running.set(slot, runner(slot))
    await manage(slot)
  }
  const managed = [...running.keys()].map(manage)
  const before = await db.pool.query(
    "select id from leasehold.workers where ended_at is null and slot like 'roll@%'",
  )

  const drain = leasehold('drain', 'roll', '--rolling', '--json')
  expect(await drain.exit, drain.output()).toEqual({ code: 0, signal: null })
  expect(JSON.parse(drain.output())).toMatchObject([
    { slot: 'roll@1', result: 'restarted' },
    { slot: 'roll@2', result: 'restarted' },
  ])
  const { rows } = await db.pool.query(
    "select id, slot, restarts from leasehold.workers where ended_at is null and slot like 'roll@%' order by slot",
  )
  expect(rows).toMatchObject([
    { slot: 'roll@1', restarts: 1 },
    { slot: 'roll@2', restarts: 1 },
  ])
  expect(rows.map(({ id }) => id)).not.toContain(before.rows[0]!.id)
  stopped = true
  for (const process of running.values()) process.kill('SIGTERM')
  await Promise.all(managed)
})

test('drain says what it cannot do: nobody of that name, nobody at all, too long', async () => {
  const nobody = leasehold('drain', 'nobody@1')
  expect(await nobody.exit).toEqual({ code: 3, signal: null })
  expect(nobody.output()).toMatch(/No live worker has the slot 'nobody@1'[^]*leasehold workers/)
  expect((await leasehold('drain', '--all').exit).code).toBe(4)
  expect((await leasehold('drain').exit).code).toBe(2)
  await db.pool.query("select leasehold.register_stage('silent')")
  await db.pool.query(
    "select leasehold.register_worker('silent@1', array['silent'], '1 hour', '10 minutes', 'crane.example')",
  )
  const long = leasehold('drain', '--stage', 'silent', '--wait', '--timeout', '1')
  expect(await long.exit).toEqual({ code: 1, signal: null })
  expect(long.output()).toMatch(/After 1 s: silent@1 has not left/)
})
