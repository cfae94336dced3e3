/**
 * `leasehold bench` loads a server only when told to, in a database of its own, and leaves nothing behind, also when it is
 * interrupted.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../../../test/harness/database.ts'
import { bin, leasehold, leaseholdJson } from './leasehold.ts'

let db: TestDatabase
let env: { DATABASE_URL: string }

beforeAll(async () => {
  db = await createTestDatabase()
  env = { DATABASE_URL: db.url }
})
afterAll(() => db.drop())

async function scratchDatabases(): Promise<string[]> {
  const { rows } = await db.pool.query<{ datname: string }>(
    `select datname from pg_database where datname like 'leasehold\\_bench\\_%'`,
  )
  return rows.map(({ datname }) => datname)
}

afterEach(async () => {
  expect(await scratchDatabases()).toEqual([])
  const { rows } = await db.pool.query('select from leasehold.tasks')
  expect(rows).toEqual([])
})

test('without --yes it says what it would do and does nothing', async () => {
  const { code, stdout, stderr } = await leasehold(['bench'], env)
  expect(code).toBe(2)
  expect(stdout).toBe('')
  expect(stderr).toContain('npx leasehold bench --yes')
  expect(stderr).not.toContain(new URL(db.url).password)
})

test('a number of tasks out of bounds is refused with the bounds', async () => {
  const { code, stderr } = await leasehold(['bench', '--yes', '--tasks', '10'], env)
  expect(code).toBe(2)
  expect(stderr).toContain('from 1000 to 1000000')
})

test('it measures in a scratch database and drops it', async () => {
  const figures = await leaseholdJson<Record<string, number>>(
    ['bench', '--yes', '--tasks', '1000', '--concurrency', '50'],
    env,
  )
  expect(figures).toMatchObject({ tasks: 1000, concurrency: 50 })
  for (const name of ['commitMs', 'submitManyRowsPerSecond', 'tasksPerSecond', 'startLatencyP99Ms'])
    expect(figures[name], name).toBeGreaterThan(0)
  expect(figures['walBytesPerTask']).toBeGreaterThan(100)
})

test.each(['SIGTERM', 'SIGHUP'] as const)(
  'interrupted by %s and once more, it drops the scratch database and fails',
  async (signal) => {
    const child = spawn(process.execPath, [bin, 'bench', '--yes', '--tasks', '1000000'], {
      env: { PATH: process.env['PATH'], ...env },
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    const closed = once(child, 'close')
    const lines: string[] = []
    for await (const line of createInterface(child.stderr)) {
      lines.push(line)
      if (line.startsWith('submitting')) {
        expect(await scratchDatabases()).toHaveLength(1)
        child.kill(signal)
        setTimeout(() => child.kill('SIGINT'), 50)
      }
    }
    const [code] = (await closed) as [number | null]
    expect(code).toBe(1)
    expect(lines.join('\n')).toContain('interrupted; the scratch database was dropped')
    expect(await scratchDatabases()).toHaveLength(0)
  },
)
