/**
 * Deploys: a schema that becomes newer under runners and before them, and draining. Real processes;
 * the migrations of the next release are made up. Draining one by one is packages/cli/test/drain.test.ts.
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
  expect(await waitForResult(db.pool, id, { timeoutMs: 60_000 })).toBe('first for me')
}

test(
  'runners go on under a newer schema and start on it, and everybody sees that they are older',
  { timeout: 120_000 },
  async () => {
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
  },
)

test(
  'a migration that says -- drain is refused while runners live; after it older ones are, before their first claim',
  { timeout: 120_000 },
  async () => {
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
  },
)
