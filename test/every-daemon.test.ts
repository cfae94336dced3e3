/**
 * What all daemons have in common, each as a process of its own: what they refuse and how they end, what they wait for,
 * what they say to a service manager. What a daemon does is tested beside it.
 */
import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { migrate } from '@leasehold/postgres'
import { Client } from 'pg'
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest'
import { receiveDatagrams } from '../packages/service/test/datagrams.ts'
import { type TestDatabase, createTestDatabase } from './harness/database.ts'
import { type TestProcess, spawnProcess } from './harness/processes.ts'

interface Daemon {
  readonly script: string
  readonly args?: readonly string[]
  /** The line that says that it works. */
  readonly works: RegExp
  /** Where it is on record once it has begun; null: it leaves nothing in the database. */
  readonly table: string | null
  readonly env?: Readonly<Record<string, string>>
}

const daemons: [string, Daemon][] = [
  [
    'runner',
    {
      script: 'daemons/runner/src/main.ts',
      args: ['--module', './daemons/runner/test/fixtures/created.ts', '--slot', 'common@1'],
      works: /"event":"slot.taken"/,
      table: 'workers',
    },
  ],
  ['monitor', { script: 'daemons/heartbeat-monitor/src/main.ts', works: /"event":"monitor.started"/, table: 'monitors' }], // prettier-ignore
  ['scheduler', { script: 'daemons/scheduler/src/main.ts', works: /"event":"scheduler.started"/, table: 'schedulers' }], // prettier-ignore
  [
    'control service',
    {
      script: 'daemons/control/src/main.ts',
      works: /"event":"control.started"/,
      table: null,
      env: { LEASEHOLD_CONTROL_PORT: '0' },
    },
  ],
]

/** Of the next release, whose migrations are made up: one is good for older programs, the other is not. */
let newer: TestDatabase
let forbidden: TestDatabase
let empty: TestDatabase
beforeAll(async () => {
  newer = await migratedByNext('-- adds a table')
  forbidden = await migratedByNext('-- drain: a column changes its meaning')
  empty = await createTestDatabase({ empty: true })
})
afterAll(() => Promise.all([newer, forbidden, empty].map((db) => db.drop())))

const endedInOrder = { code: 0, signal: null }
const failed = { code: 1, signal: null }

describe.each(daemons)('the %s', (_name, { script, args = [], works, table, env: own = {} }) => {
  const start = (env: Record<string, string>, nodeOptions: readonly string[] = []): TestProcess =>
    spawnProcess({ script, args, env: { ...own, ...env }, nodeOptions })

  test('waits for its database, is ready when it works, says once that the schema is newer, and ends by SIGTERM', async ({
    onTestFinished,
  }) => {
    const folder = await mkdtemp(join(tmpdir(), 'leasehold-notify-'))
    onTestFinished(() => rm(folder, { recursive: true, force: true }))
    const systemd = process.platform === 'linux' ? receiveDatagrams(join(folder, 'notify.sock')) : null
    await allowConnections(newer, false)
    const daemon = start({
      DATABASE_URL: newer.url,
      ...(systemd && { NOTIFY_SOCKET: systemd.path, WATCHDOG_USEC: '60000000' }),
    })
    await daemon.waitForLine(/"event":"start.waiting".*"code":"55000"/)
    const saidWaiting = systemd?.received().slice() ?? []
    await allowConnections(newer, true)
    await daemon.waitForLine(works)
    if (systemd) await expect.poll(() => systemd.received()).toContain('READY=1')
    daemon.kill('SIGTERM')
    expect(await daemon.exit).toEqual(endedInOrder)

    expect(daemon.output().match(/"event":"start.waiting"/g)).toHaveLength(1)
    expect(daemon.output().match(/"event":"schema.newer"/g)).toHaveLength(1)
    if (systemd === null) return
    expect(saidWaiting).toContainEqual(
      expect.stringMatching(/^STATUS=waiting for the database: .*not currently/),
    )
    expect(saidWaiting).not.toContain('READY=1')
    const said = systemd.received()
    systemd.close()
    expect(said.filter((line) => line === 'READY=1')).toHaveLength(1)
    expect(said).toContain('WATCHDOG=1')
    expect(said.lastIndexOf('STOPPING=1')).toBeGreaterThan(said.indexOf('READY=1'))
  })

  test('is refused by the server: it says so, without the password, and ends with 1; without any password with 2', async () => {
    const wrong = new URL(newer.url)
    wrong.username = 'nobody_knows_me'
    wrong.password = 'hunter2-is-not-it'
    const none = new URL(newer.url)
    none.password = ''
    const [refused, incomplete] = [start({ DATABASE_URL: wrong.href }), start({ DATABASE_URL: none.href })]
    expect(await refused.exit).toEqual(failed)
    expect(refused.output()).toMatch(/refuses the connection: .*nobody_knows_me.*Check DATABASE_URL/)
    expect(refused.output()).not.toContain('hunter2')
    expect(refused.output()).not.toContain('start.waiting')
    expect(await incomplete.exit).toEqual({ code: 2, signal: null })
    expect(incomplete.output()).toContain('DATABASE_URL: has no password')
  })

  test('refuses a database without the schema and one that needs a newer program, with 1 and what to do', async () => {
    const [unmigrated, older] = [start({ DATABASE_URL: empty.url }), start({ DATABASE_URL: forbidden.url })]
    expect(await unmigrated.exit).toEqual(failed)
    expect(unmigrated.output()).toContain('npx leasehold migrate')
    expect(await older.exit).toEqual(failed)
    expect(older.output()).toContain('newer than this program')
    expect(await traces(forbidden)).toBe(0)
  })

  test('told to end while it is still being loaded, it ends in order and has not begun', async () => {
    const before = await traces(newer)
    const daemon = start({ DATABASE_URL: newer.url }, ['--import', './test/harness/told-while-loading.ts'])
    expect(await daemon.exit).toEqual(endedInOrder)
    expect(await traces(newer)).toBe(before)
    expect(daemon.output()).not.toMatch(works)
  })

  /** What daemons of this kind have left in the database by starting on it. */
  async function traces(db: TestDatabase): Promise<number> {
    if (table === null) return 0
    const { rows } = await db.pool.query<{ n: number }>(`select count(*)::int as n from leasehold.${table}`)
    return rows[0]!.n
  }
})

/** A database that takes no connections for now, as one that is being restored. */
async function allowConnections(db: TestDatabase, allowed: boolean): Promise<void> {
  const admin = new Client({ connectionString: inject('testServer').adminUrl })
  await admin.connect()
  await admin.query(`alter database ${db.name} with allow_connections ${allowed}`)
  await admin.end()
}

async function migratedByNext(head: string): Promise<TestDatabase> {
  const db = await createTestDatabase()
  const folder = await mkdtemp(join(tmpdir(), 'leasehold-next-'))
  await cp(fileURLToPath(new URL('../migrations/', import.meta.url)), folder, { recursive: true })
  const next = `${head}\ncreate table leasehold.made_up (id bigint primary key);\n`
  await writeFile(join(folder, '9999_next.sql'), next)
  await migrate(db.url, { folder })
  await rm(folder, { recursive: true })
  return db
}
