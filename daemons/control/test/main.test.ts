/**
 * The daemon as systemd runs it: what it answers while its database is away, what ends it and how. What it has in common
 * with the other daemons is tested in test/every-daemon.test.ts.
 */
import { Client } from 'pg'
import { beforeEach, expect, inject, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { type TestProcess, spawnProcess } from '../../../test/harness/processes.ts'
import { scrape } from './scraping.ts'

let db: TestDatabase
beforeEach(async ({ onTestFinished }) => {
  db = await createTestDatabase()
  onTestFinished(() => db.drop())
  await db.pool.query("insert into leasehold.stages (name) values ('work')")
})

function daemon(env: Record<string, string> = {}): TestProcess {
  return spawnProcess({
    script: 'daemons/control/src/main.ts',
    env: { DATABASE_URL: db.url, LEASEHOLD_CONTROL_PORT: '0', ...env },
  })
}

async function addressOf(child: TestProcess): Promise<string> {
  const line = await child.waitForLine(/"event":"control.listening"/)
  return (JSON.parse(line) as { address: string }).address
}

const statusOf = async (address: string, path: string): Promise<number> =>
  (await fetch(`http://${address}${path}`)).status

/** With `allowed` false a database that takes no connections and has none, as one that is being restored. */
async function letIn(allowed: boolean): Promise<void> {
  const admin = new Client({ connectionString: inject('testServer').adminUrl })
  await admin.connect()
  await admin.query(`alter database ${db.name} with allow_connections ${allowed}`)
  if (!allowed)
    await admin.query('select pg_terminate_backend(pid) from pg_stat_activity where datname = $1', [db.name])
  await admin.end()
}

test('it answers before its database does, says that it is away whenever it is, and is back without a restart', async () => {
  await letIn(false)
  const child = daemon()
  const address = await addressOf(child)
  await child.waitForLine(/"event":"start.waiting"/)
  const away = async (): Promise<void> => {
    expect((await scrape(address)).of('leasehold_up')).toBe(0)
    expect(await statusOf(address, '/healthz')).toBe(200)
    expect(await statusOf(address, '/health')).toBe(503)
    const response = await fetch(`http://${address}/readyz`)
    expect([response.status, await response.json()]).toEqual([503, { ready: false, reason: { code: expect.any(String), message: expect.any(String) } }]) // prettier-ignore
  }
  const back = async (): Promise<void> => {
    await expect.poll(async () => (await scrape(address)).of('leasehold_up')).toBe(1)
    await expect.poll(() => statusOf(address, '/readyz')).toBe(200)
    expect((await scrape(address)).of('leasehold_stage_ready_tasks', 'stage="work"')).toBe(0)
  }
  await away()
  expect(await (await fetch(`http://${address}/readyz`)).text()).toContain(
    'not currently accepting connections',
  )
  await letIn(true)
  await child.waitForLine(/"event":"control.started"/)
  await back()
  await letIn(false)
  await expect.poll(async () => (await scrape(address)).of('leasehold_up')).toBe(0)
  await expect.poll(() => statusOf(address, '/readyz')).toBe(503)
  await away()
  await letIn(true)
  await back()
  await child.waitForLine(/"event":"control.recovered"/)
  child.kill('SIGTERM')
  expect(await child.exit).toEqual({ code: 0, signal: null })
})

test('told to end it finishes the scrape that is under way', async () => {
  const child = daemon()
  const address = await addressOf(child)
  await child.waitForLine(/"event":"control.started"/)
  const holder = await db.client()
  await holder.query('begin; lock table leasehold.stages in access exclusive mode')
  const waits = async (): Promise<number> => {
    const { rowCount } = await db.pool.query("select from pg_stat_activity where application_name = 'leasehold control' and datname = current_database() and wait_event_type = 'Lock'") // prettier-ignore
    return rowCount ?? 0
  }
  // The answer of the start may still be fresh: asked until a scrape has to wait for the lock.
  let underWay = scrape(address)
  await expect
    .poll(
      async () => {
        if ((await waits()) === 1) return 1
        underWay = scrape(address)
        return 0
      },
      { interval: 200 },
    )
    .toBe(1)
  child.kill('SIGTERM')
  await child.waitForLine(/"event":"control.stopping"/)
  await holder.query('commit')
  expect((await underWay).of('leasehold_up')).toBe(1)
  expect(await child.exit).toEqual({ code: 0, signal: null })
})

test('a port that is taken ends it with 1 and names the port and the setting', async () => {
  const first = daemon()
  const address = await addressOf(first)
  const port = address.split(':')[1]!
  const second = daemon({ LEASEHOLD_CONTROL_PORT: port })
  expect(await second.exit).toEqual({ code: 1, signal: null })
  expect(second.output()).toContain(`Port ${port} of 127.0.0.1 is taken by another process`)
  expect(second.output()).toContain('LEASEHOLD_CONTROL_PORT')
})

test('what others can reach is refused without a token, with 2; with one it listens and demands it', async () => {
  const refused = daemon({ LEASEHOLD_CONTROL_HOST: '0.0.0.0' })
  expect(await refused.exit).toEqual({ code: 2, signal: null })
  expect(refused.output()).toContain('LEASEHOLD_METRICS_TOKEN: is missing although LEASEHOLD_CONTROL_HOST is 0.0.0.0') // prettier-ignore
  const token = 'made-up-token-of-thirty-two-signs'
  const child = daemon({ LEASEHOLD_CONTROL_HOST: '0.0.0.0', LEASEHOLD_METRICS_TOKEN: token })
  const address = (await addressOf(child)).replace('0.0.0.0', '127.0.0.1')
  expect(await statusOf(address, '/metrics')).toBe(401)
  const headers = { authorization: `Bearer ${token}` }
  expect((await fetch(`http://${address}/metrics`, { headers })).status).toBe(200)
  child.kill('SIGTERM')
  await child.exit
  expect(child.output()).not.toContain(token)
})

test('a login without the rights to read ends it with 1 and says which role it needs', async ({
  onTestFinished,
}) => {
  const user = `blind_${process.pid}`
  await db.pool.query(`create role ${user} login password 'made-up'`)
  onTestFinished(async () => void (await db.pool.query(`drop role ${user}`)))
  const blind = daemon({ DATABASE_URL: Object.assign(new URL(db.url), { username: user, password: 'made-up' }).href }) // prettier-ignore
  expect(await blind.exit).toEqual({ code: 1, signal: null })
  expect(blind.output()).toMatch(/permission denied.*Grant leasehold_observer to it\. \[NOT_ALLOWED\]/)
})
