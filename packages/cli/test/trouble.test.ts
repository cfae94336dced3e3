/**
 * When things are wrong: no database, no schema, no rights, wrong settings, wrong words. And the doctor, who says so.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { keepablePort } from '../../../test/harness/loopback.ts'
import { readSome } from './closed-pipe.ts'
import { leasehold } from './leasehold.ts'

interface Diagnosis {
  status: string
  sections: { section: string; checks: { name: string; status: string; value: string; advice: string }[] }[]
}

let db: TestDatabase
let empty: TestDatabase
let folder: string

beforeAll(async () => {
  db = await createTestDatabase()
  empty = await createTestDatabase({ empty: true })
  folder = await mkdtemp(join(tmpdir(), 'leasehold-cli-'))
})
afterAll(async () => {
  await Promise.all([db.drop(), empty.drop(), rm(folder, { recursive: true })])
})

test('without DATABASE_URL and without an embedded server a look says how to start one, and starts none', async () => {
  const env = { LEASEHOLD_DATA_DIR: join(folder, 'none') }
  for (const command of ['status', 'stages', 'workers', 'tasks', 'runs']) {
    const { code, stdout, stderr } = await leasehold([command], env)
    expect([command, code, stdout]).toEqual([command, 1, ''])
    expect(stderr).toContain('npx leasehold db start')
  }
})

test('a database that is not there is named by its fault, without the password', async () => {
  const { code, stderr } = await leasehold(['status'], {
    DATABASE_URL: `postgres://me:s3cret@127.0.0.1:${await keepablePort()}/x`,
  })
  expect(code).toBe(1)
  expect(stderr).toContain('ECONNREFUSED')
  expect(stderr).toContain('hint: check DATABASE_URL')
  expect(stderr).not.toContain('s3cret')
})

test('a database without the schema leads to migrate, which makes it work', async () => {
  const env = { DATABASE_URL: empty.url }
  const before = await leasehold(['tasks'], env)
  expect(before.code).toBe(1)
  expect(before.stderr).toContain('npx leasehold migrate')
  const migrated = await leasehold(['migrate'], env)
  expect(migrated.code).toBe(0)
  expect(migrated.stdout).toMatch(/applied leasehold: 0001_/)
  expect((await leasehold(['migrate'], env)).stdout).toMatch(/^up to date \(.+\): leasehold /)
  expect((await leasehold(['tasks'], env)).stdout).toBe('No task matches.\n')
})

test('wrong settings are reported all at once, with code 2 and nothing done', async () => {
  const { code, stdout, stderr } = await leasehold(['status'], {
    DATABASE_URL: 'mysql://nope',
    LEASEHOLD_LEASE_TTL: '5',
    SMTP_PORT: 'many',
  })
  expect([code, stdout]).toEqual([2, ''])
  for (const name of ['DATABASE_URL', 'LEASEHOLD_LEASE_TTL_MS', 'SMTP_PORT']) expect(stderr).toContain(name)
})

test('wrong words end with code 2 and say what would be right', async () => {
  const cases: [args: string[], says: RegExp][] = [
    [['stauts'], /unknown command 'stauts'[\s\S]*status/],
    [['tasks', '--state', 'sleeping'], /ready, running, scheduled/],
    [['tasks', '--limit', '0'], /from 1 to 10000/],
    [['show', '12x'], /whole number/],
    [['show', '9223372036854775808'], /whole number/],
    [['db', 'start', '--port', '99999'], /from 1 to 65535/],
    [[], /Usage: leasehold/],
  ]
  for (const [args, says] of cases) {
    const { code, stdout, stderr } = await leasehold(args, { DATABASE_URL: db.url })
    expect([args, code, stdout]).toEqual([args, 2, ''])
    expect(stderr).toMatch(says)
  }
})

test('help is no failure and explains the exit codes', async () => {
  const { code, stdout } = await leasehold(['--help'], {})
  expect(code).toBe(0)
  expect(stdout).toContain('Exit codes: 0 done')
  expect((await leasehold(['submit', '--help'], {})).stdout).toContain('--depends-on')
})

test('with --json an error is a JSON document on standard error', async () => {
  const { code, stdout, stderr } = await leasehold(['show', '999999', '--json'], { DATABASE_URL: db.url })
  expect([code, stdout]).toEqual([3, ''])
  expect(JSON.parse(stderr)).toMatchObject({ error: { code: 'TASK_NOT_FOUND', exitCode: 3 } })
})

test('a login without rights is told which role it lacks', async () => {
  const name = `cli_guest_${process.pid}`
  await db.pool.query(`create role ${name} login password 'guest'`)
  try {
    const url = Object.assign(new URL(db.url), { username: name, password: 'guest' }).href
    const { code, stderr } = await leasehold(['tasks'], { DATABASE_URL: url })
    expect(code).toBe(1)
    expect(stderr).toContain('leasehold_observer')
  } finally {
    await db.pool.query(`drop role ${name}`)
  }
})

test('a pipe that is closed early ends the command quietly', async () => {
  await db.pool.query("insert into leasehold.stages (name) select 's' || i from generate_series(1, 3000) i")
  try {
    const { head, stderr, code } = await readSome(['stages'], db.url)
    expect(head).toContain('STAGE')
    expect([code, stderr]).toEqual([0, ''])
  } finally {
    await db.pool.query('delete from leasehold.stages')
  }
})

test('the doctor finds a silent monitor bad and a sound schema good', async () => {
  const { code, stdout } = await leasehold(['doctor', '--json'], { DATABASE_URL: db.url })
  expect(code).toBe(1)
  const { status, sections } = JSON.parse(stdout) as Diagnosis
  expect(status).toBe('bad')
  const checks = new Map(sections.flatMap(({ checks }) => checks.map((check) => [check.name, check.status])))
  expect(checks.get('monitor')).toBe('bad')
  expect(checks.get('schema')).toBe('ok')
  expect(checks.get('invariants')).toBe('ok')
  expect(checks.get('alert mail')).toBe('warn')
  expect(checks.get('leasehold_observer')).toBe('ok')
})

test('the doctor finds nothing bad but a server that does not flush, once a monitor has looked', async () => {
  await db.pool.query("select leasehold.monitor_beat(gen_random_uuid(), 'host.example', 1, 'test', 60000)")
  const { stdout } = await leasehold(['doctor', '--json'], { DATABASE_URL: db.url })
  const { sections } = JSON.parse(stdout) as Diagnosis
  const bad = sections.flatMap(({ checks }) => checks.filter((check) => check.status === 'bad'))
  const names = bad.map((check) => check.name)
  expect(names.filter((name) => name !== 'fsync' && name !== 'full_page_writes')).toEqual([])
})

test('the doctor goes on past wrong settings and a changed schema, and names both', async () => {
  const changed = await createTestDatabase()
  try {
    await changed.pool.query('alter table leasehold.stages add column surprise text')
    const { code, stdout } = await leasehold(['doctor'], { DATABASE_URL: changed.url, SMTP_PORT: 'many' })
    expect(code).toBe(1)
    expect(stdout).toContain('SMTP_PORT')
    expect(stdout).toMatch(/bad +schema +tampered/)
    expect(stdout).toContain('Server settings')
  } finally {
    await changed.drop()
  }
})

test('the doctor says so when the database cannot be reached', async () => {
  const { code, stdout } = await leasehold(['doctor'], { LEASEHOLD_DATA_DIR: join(folder, 'none') })
  expect(code).toBe(1)
  expect(stdout).toMatch(/bad +connection/)
  expect(stdout).toContain('npx leasehold db start')
})
