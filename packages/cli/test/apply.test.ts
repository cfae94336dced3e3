/**
 * `leasehold apply` on a real database: what it shows, what it changes, what it leaves alone, and that it is all or nothing.
 */
import { listSchedules, listStages, putSchedule, readAlertPolicy, registerStage } from '@leasehold/queue'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../../../test/harness/database.ts'
import { leasehold, leaseholdJson, type Result } from './leasehold.ts'

const factory = fileURLToPath(new URL('../../../pipelines/factory/leasehold.config.ts', import.meta.url))
let db: TestDatabase
let folder: string
let login: string
beforeAll(async () => {
  db = await createTestDatabase()
  folder = mkdtempSync(join(tmpdir(), 'leasehold-apply-'))
  login = `apply_${process.pid}`
  await db.pool.query(
    `create role ${login} login password 'made-up' in role leasehold_worker, leasehold_operator`,
  )
})
afterAll(async () => {
  rmSync(folder, { recursive: true })
  await db.pool.query(`drop role ${login}`)
  await db.drop()
})

/** As the least of logins that may. */
function env(): Record<string, string> {
  const url = new URL(db.url)
  url.username = login
  url.password = 'made-up'
  return { DATABASE_URL: url.href }
}

const run = (...args: string[]): Promise<Result> => leasehold(['apply', ...args], env())

let written = 0
function write(manifest: object): string {
  const file = join(folder, `manifest-${(written += 1)}.json`)
  writeFileSync(file, JSON.stringify(manifest))
  return file
}

const schedules = async (): Promise<string[]> => (await listSchedules(db.pool)).map(({ name }) => name)

test('the factory: a dry run shows everything and changes nothing, the first time applies it, the second has nothing to do', async () => {
  await registerStage(db.pool, { name: 'elsewhere', expectedWorkers: 2 })
  const dry = await run(factory, '--dry-run')
  expect(dry.code, dry.stderr).toBe(0)
  expect(dry.stdout).toContain('+ stage lead-verify')
  expect(dry.stdout).toContain('+ schedule daily-blog')
  expect(dry.stdout).toContain('    quiet: none → {"from":"22:00","until":"07:00"}')
  expect(dry.stdout).toContain('31 changes would be applied; nothing was changed')
  expect(dry.stdout).toContain('stage elsewhere expects workers and is not in this manifest')
  expect(await schedules()).toEqual([])
  expect((await listStages(db.pool)).map(({ stage }) => stage)).toEqual(['elsewhere'])

  const first = await run(factory)
  expect(first.code, first.stderr).toBe(0)
  expect(first.stdout).toContain('31 changes applied')
  expect(await schedules()).toEqual([
    'blacklist-check',
    'daily-blog',
    'data-refresh',
    'reply-monitor',
    'weekly-plan',
  ])
  const [verify] = await listStages(db.pool, { stage: 'lead-verify' })
  expect(verify).toMatchObject({ expectedWorkers: 8, keyLimit: 1, timeoutMs: 1_800_000 })
  expect(await readAlertPolicy(db.pool)).toMatchObject({
    perDay: 2,
    quiet: { from: '22:00', until: '07:00' },
  })
  const [webhook] = await listStages(db.pool, { stage: 'webhook' })
  expect(webhook).toMatchObject({
    timeoutMs: 60_000,
    maxAttempts: 10,
    backoffMinMs: 5000,
    backoffMaxMs: 600_000,
  })

  const second = await run(factory)
  expect({ code: second.code, first: second.stdout.split('\n')[0] }).toEqual({
    code: 0,
    first: 'nothing to do: the database is as the manifest says',
  })
})

test('what was changed in the database or in the manifest is shown, and is as the manifest says afterwards', async () => {
  await db.pool.query(
    `update leasehold.stages set timeout = '1 min', expected_workers = 3 where name = 'lead-verify'`,
  )
  await db.pool.query(
    `update leasehold.schedules set enabled = false, cron = '1 1 * * *' where name = 'daily-blog'`,
  )
  await db.pool.query(`delete from leasehold.schedules where name = 'weekly-plan'`)
  await db.pool.query(
    `update leasehold.schedules set payload = '{"items": []}' where name = 'blacklist-check'`,
  )
  const { differences } = await leaseholdJson<{
    differences: { name: string; change: string; details: string[] }[]
  }>(['apply', factory], env())
  expect(differences).toEqual([
    {
      what: 'stage',
      name: 'lead-verify',
      change: 'change',
      details: ['expected workers: 3 → 8', 'timeout: 1 min → 30 min'],
    },
    { what: 'schedule', name: 'blacklist-check', change: 'change', details: ['payload: changed'] },
    {
      what: 'schedule',
      name: 'daily-blog',
      change: 'change',
      details: ['when: 1 1 * * * → 0 6 * * *', 'enabled: false → true'],
    },
    { what: 'schedule', name: 'weekly-plan', change: 'add', details: [] },
  ])
})

test('a schedule that left the manifest is removed; one of the CLI or of SQL stays', async () => {
  await putSchedule(db.pool, { name: 'theirs', stage: 'blog', everyMs: 60_000, owner: 'cli' })
  await putSchedule(db.pool, { name: 'by_hand', stage: 'blog', everyMs: 60_000, owner: 'sql' })
  const file = write({
    stages: { blog: { command: 'true' } },
    schedules: { mine: { stage: 'blog', every: '1 h' } },
  })
  const { stdout, code } = await run(file)
  expect(code).toBe(0)
  expect(stdout).toContain('- schedule daily-blog')
  expect(await schedules()).toEqual(['by_hand', 'mine', 'theirs'])
})

test('a name that somebody else has taken is refused, and nothing at all is changed', async () => {
  const file = write({
    stages: { fresh: { command: 'true' } },
    schedules: { theirs: { stage: 'fresh', every: '1 h' }, new_one: { stage: 'fresh', every: '1 h' } },
  })
  const { code, stderr } = await run(file)
  expect(code).toBe(1)
  expect(stderr).toContain('theirs (cli)')
  expect(stderr).toContain('npx leasehold schedules remove theirs')
  expect(await schedules()).toEqual(['by_hand', 'mine', 'theirs'])
  expect(await listStages(db.pool, { stage: 'fresh' })).toEqual([])
})

test('what only the database refuses is refused in a dry run already, and everything is taken back', async () => {
  await db.pool.query(`select leasehold.set_alert_policy('{"quiet_from": "20:00", "quiet_until": "06:00"}')`)
  const file = write({ stages: { late: { command: 'true' } }, alerts: { digestAt: '23:00' } })
  const { code, stderr } = await run(file, '--dry-run')
  expect(code).toBe(2)
  expect(stderr).toContain('digest')
  expect(await listStages(db.pool, { stage: 'late' })).toEqual([])
})

test('a manifest with mistakes is refused before a database is looked for', async () => {
  const { code, stderr } = await leasehold(['apply', write({ stages: { x: {} } })], {})
  expect(code).toBe(2)
  expect(stderr).toContain('stages.x: needs a command')
})

test('without schedulers its schedules are for timers, and their next slots are known at once and after an edit by SQL', async () => {
  const mine = {
    stages: { blog: { command: 'true' } },
    schedules: { mine: { stage: 'blog', cron: '0 6 * * *' } },
  }
  const first = await run(write({ ...mine, schedulers: 0 }))
  expect(first.stdout).toContain('fired by: scheduler → timer')
  const known = async () => (await listSchedules(db.pool, { name: 'mine' }))[0]!
  expect(await known()).toMatchObject({ firedBy: 'timer', nextSlot: expect.any(Date), status: 'ok' })
  await db.pool.query("update leasehold.schedules set zone = 'Asia/Tokyo' where name = 'mine'")
  await db.pool.query("update leasehold.schedules set zone = 'UTC' where name = 'mine'")
  expect(await known()).toMatchObject({ nextSlot: null })
  const again = await run(write({ ...mine, schedulers: 0 }))
  expect(again.stdout).toContain('nothing to do')
  expect((await known()).nextSlot?.toISOString()).toMatch(/T06:00:00.000Z$/)
  const dry = await run(write(mine), '--dry-run')
  expect(dry.stdout).toContain('fired by: timer → scheduler')
  expect(await known()).toMatchObject({ firedBy: 'timer' })
})

function limited(rate?: object): string {
  return write({ stages: { 'rated-mail': { command: 'true', limits: { rate } } } })
}

test('a rate limit is set, shown by stages and why, changed and taken out again', async () => {
  const first = await run(limited({ tasks: 1, per: '1 d' }))
  expect(first.code, first.stderr).toBe(0)
  await db.pool.query(`insert into leasehold.tasks (stage) values ('rated-mail'), ('rated-mail')`)
  await db.pool.query(
    `select w.*, leasehold.claim(w.worker_id, 'rated-mail')
     from leasehold.register_worker('rated-mail@1', array['rated-mail'], '1 h', '1 min', 'host.test', p_concurrency => 5) w`,
  )
  const stages = await leasehold(['stages'], env())
  expect(stages.stdout).toMatch(/AT MOST$/m)
  expect(stages.stdout).toMatch(/^rated-mail .* 1 per d, burst 1$/m)
  const { rows } = await db.pool.query<{ id: string }>(
    `select task_id::text as id from leasehold.ready where stage = 'rated-mail'`,
  )
  const why = await leasehold(['why', rows[0]!.id], env())
  expect(why.stdout).toMatch(/Its stage's rate limit: 1 start per .*; next start at .*; 0 ready task/)
  expect(why.stdout).toContain('(rate_limited)')

  const second = await run(limited({ tasks: 90, per: '1 min', burst: 5 }))
  expect(second.stdout).toContain('    rate: 1 per d, burst 1 → 90 per min, burst 5')
  expect((await run(limited({ tasks: 90, per: '60 s', burst: 5 }))).stdout).toContain('nothing to do')
  expect((await run(limited())).stdout).toContain('    rate: 90 per min, burst 5 → none')
  expect((await leasehold(['stages'], env())).stdout).not.toContain('AT MOST')
})
