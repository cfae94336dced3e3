/**
 * The embedded server as users meet it: started twice at once, killed, restarted, misplaced.
 */
import { LeaseholdError } from '@leasehold/queue'
import {
  type EmbeddedOptions,
  type EmbeddedServer,
  findEmbedded,
  resolveDatabase,
  startEmbedded,
  stopEmbedded,
} from '@leasehold/postgres'
import { chmod, mkdir, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { Client, type QueryResultRow } from 'pg'
import { afterEach, beforeEach, expect, inject, onTestFinished, test } from 'vitest'
import { copyCluster } from '../../../test/harness/cluster.ts'
import { listenOnLoopback } from '../../../test/harness/loopback.ts'
import { makeServerFolder } from '../../../test/harness/server-folder.ts'
import { spawnProcess } from '../../../test/harness/processes.ts'
import { assertReachable } from '../src/embedded/account.ts'

let dataDir: string
beforeEach(async () => {
  dataDir = await makeServerFolder('leasehold-embedded-')
})
afterEach(async () => {
  await stopEmbedded(dataDir)
  await rm(dataDir, { recursive: true, force: true })
})

const binDir = inject('testServer').binDir
const start = (more: Partial<EmbeddedOptions> = {}): Promise<EmbeddedServer> =>
  startEmbedded({ dataDir, ephemeral: true, ...(binDir ? { binDir } : {}), ...more })

async function ask<Row extends QueryResultRow>(url: string, sql: string): Promise<Row[]> {
  const client = new Client({ connectionString: url })
  client.on('error', () => {})
  await client.connect()
  try {
    return (await client.query<Row>(sql)).rows
  } finally {
    await client.end()
  }
}

test('a stopped server keeps its data, its port and its password', async () => {
  await copyCluster(dataDir, 'empty')
  const first = await start()
  await ask(first.url, 'create table kept as select 42 as answer')
  await first.stop()
  expect(await findEmbedded(dataDir)).toBeNull()
  const second = await start()
  expect(second.url).toBe(first.url)
  expect(await ask(second.url, 'select answer from kept')).toEqual([{ answer: 42 }])
})

test('whoever comes second attaches, and its stop leaves the server running', async () => {
  await copyCluster(dataDir, 'empty')
  const first = await start()
  const second = await start()
  expect(second).toMatchObject({ pid: first.pid, url: first.url, started: false })
  await second.stop()
  expect(await ask(first.url, 'select 1 as one')).toEqual([{ one: 1 }])
  expect(await findEmbedded(dataDir)).toMatchObject({ pid: first.pid })
  await first.stop()
  expect(await findEmbedded(dataDir)).toBeNull()
})

test('three processes that start on an empty folder at the same moment end with one server', async () => {
  const processes = [1, 2, 3].map(() =>
    spawnProcess({
      script: 'packages/postgres/test/fixtures/start-embedded.ts',
      args: [dataDir, ...(binDir ? [binDir] : [])],
    }),
  )
  const lines = await Promise.all(processes.map((p) => p.waitForLine(/^serving /)))
  expect(new Set(lines.map((line) => line.split(' ')[1])).size).toBe(1)
  expect(lines.filter((line) => line.endsWith('started'))).toHaveLength(1)
  expect((await readdir(dataDir)).filter((name) => name.startsWith('init-'))).toEqual([])
  for (const p of processes) p.kill('SIGTERM')
  expect(await Promise.all(processes.map((p) => p.exit))).toEqual(
    processes.map(() => ({ code: 0, signal: null })),
  )
})

test('the server survives the death of the process that started it, and the next one finds it', async () => {
  await copyCluster(dataDir, 'empty')
  const args = [dataDir, ...(binDir ? [binDir] : [])]
  const owner = spawnProcess({ script: 'packages/postgres/test/fixtures/start-embedded.ts', args })
  const pid = Number((await owner.waitForLine(/^serving /)).split(' ')[1])
  owner.kill('SIGKILL')
  await owner.exit
  expect(await start()).toMatchObject({ pid, started: false })
})

test('a server killed with SIGKILL comes back with every committed row', async () => {
  await copyCluster(dataDir, 'empty')
  const first = await start({ ephemeral: false })
  await ask(first.url, 'create table kept as select 42 as answer')
  process.kill(first.pid, 'SIGKILL')
  await gone(first.pid)
  expect(await findEmbedded(dataDir)).toBeNull()
  const second = await start({ ephemeral: false })
  expect(second.started).toBe(true)
  expect(await ask(second.url, 'select answer from kept')).toEqual([{ answer: 42 }])
})

test('processes that outlive their killed server for a moment are waited for', async () => {
  await copyCluster(dataDir, 'empty')
  const first = await start()
  const [late] = await ask<{ pid: number }>(
    first.url,
    "select pid from pg_stat_activity where backend_type = 'checkpointer'",
  )
  process.kill(late!.pid, 'SIGSTOP')
  let stopped = true
  onTestFinished(() => void (stopped && process.kill(late!.pid, 'SIGKILL')))
  process.kill(first.pid, 'SIGKILL')
  await gone(first.pid)
  const again = start()
  const said = (): Promise<string> => readFile(join(dataDir, 'startup.log'), 'utf8')
  await expect.poll(said).toContain('pre-existing shared memory block')
  process.kill(late!.pid, 'SIGKILL')
  stopped = false
  expect((await again).started).toBe(true)
})

test('a pid file whose number now belongs to another process stops nobody', async () => {
  await copyCluster(dataDir, 'empty')
  await (await start()).stop()
  const lines = [process.pid, join(dataDir, 'data'), 1, 5432, '', '127.0.0.1', '', 'ready']
  await writeFile(join(dataDir, 'data', 'postmaster.pid'), `${lines.join('\n')}\n`)
  expect(await findEmbedded(dataDir)).toBeNull()
  expect((await start()).started).toBe(true)
})

test('a port in use is passed over, unless it was asked for', async () => {
  await copyCluster(dataDir, 'empty')
  const occupant = createServer()
  const port = await listenOnLoopback(occupant)
  await writeFile(join(dataDir, 'port'), `${port}\n`)
  await expect(start({ port })).rejects.toThrow(new RegExp(`port ${port} is taken`))
  expect((await start()).port).not.toBe(port)
  occupant.close()
})

test('it listens on loopback only, with a password in a file that only its owner reads', async () => {
  await copyCluster(dataDir, 'empty')
  const server = await start()
  expect(await ask(server.url, 'show listen_addresses')).toEqual([{ listen_addresses: '127.0.0.1' }])
  expect((await stat(join(dataDir, 'data', 'leasehold.password'))).mode & 0o777).toBe(0o600)
  const wrong = new URL(server.url)
  wrong.password = 'wrong'
  await expect(ask(wrong.href, 'select 1')).rejects.toMatchObject({ code: '28P01' })
})

test('it is durable unless it was asked to be ephemeral, and speaks UTF-8', async () => {
  const server = await start({ ephemeral: false, settings: { work_mem: '5MB' } })
  const [row] = await ask<Record<string, string>>(
    server.url,
    `select current_setting('fsync') as fsync, current_setting('synchronous_commit') as commit,
            current_setting('server_encoding') as encoding, current_setting('max_connections') as connections,
            current_setting('work_mem') as work_mem, current_user as "user", current_database() as database`,
  )
  expect(row).toEqual({
    fsync: 'on',
    commit: 'on',
    encoding: 'UTF8',
    connections: '200',
    work_mem: '5MB',
    user: 'leasehold',
    database: 'leasehold',
  })
})

test('a table of the user’s own does not land in the schema that is named like the login', async () => {
  const { url } = await start()
  await ask(url, 'create schema leasehold')
  await ask(url, 'create table mine ()')
  expect(await ask(url, 'select schemaname from pg_tables where tablename = $$mine$$')).toEqual([
    { schemaname: 'public' },
  ])
})

test("another major version's data is refused with what to do", async () => {
  await copyCluster(dataDir, 'empty')
  await (await start()).stop()
  await writeFile(join(dataDir, 'data', 'PG_VERSION'), '9\n')
  await expect(start()).rejects.toThrow(/made by PostgreSQL 9; this program brings \d+.*LEASEHOLD_DATA_DIR/)
})

test('drafts left by a process that died are removed, those of a living one are kept', async () => {
  await mkdir(join(dataDir, 'init-999999999-abc'))
  await mkdir(join(dataDir, `init-${process.pid}-abc`))
  await start()
  const drafts = (await readdir(dataDir)).filter((name) => name.startsWith('init-'))
  expect(drafts).toEqual([`init-${process.pid}-abc`])
})

test('a server that cannot start says why and where its log is', async () => {
  await copyCluster(dataDir, 'empty')
  await expect(start({ settings: { shared_buffers: 'plenty' } })).rejects.toThrow(
    /did not start.*shared_buffers[\s\S]*Its log is in/,
  )
})

test('a folder without the programs is refused', async () => {
  await expect(start({ binDir: dataDir })).rejects.toThrow(/There is no initdb in/)
})

test('started as root, a folder that is closed to the server’s account is named', async () => {
  const closed = join(dataDir, 'closed')
  await mkdir(join(closed, 'inner'), { recursive: true })
  await chmod(dataDir, 0o755)
  await chmod(closed, 0o700)
  const refusal = assertReachable(join(closed, 'inner', 'data'), { uid: 64_000, gid: 64_000 })
  await expect(refusal).rejects.toBeInstanceOf(LeaseholdError)
  await expect(refusal).rejects.toThrow(`chmod o+x ${closed}`)
  await assertReachable(join(closed, 'inner', 'data'), null)
})

test('with a DATABASE_URL nothing embedded is touched', async () => {
  const untouched = join(dataDir, 'untouched')
  const database = await resolveDatabase({ databaseUrl: 'postgres://db.example/x', dataDir: untouched })
  expect(database).toMatchObject({ url: 'postgres://db.example/x', embedded: false })
  await database.stop()
  expect(await readdir(dataDir)).toEqual([])
})

test('without one the embedded server answers and stops with its starter', async () => {
  const database = await resolveDatabase({ dataDir, ephemeral: true, ...(binDir ? { binDir } : {}) })
  expect(database.embedded).toBe(true)
  expect(await ask(database.url, 'select 1 as one')).toEqual([{ one: 1 }])
  await database.stop()
  expect(await findEmbedded(dataDir)).toBeNull()
  expect((await readFile(join(dataDir, 'port'), 'utf8')).trim()).toMatch(/^\d+$/)
})

/** Resolves when the server's process and its children have let go of the data directory. */
async function gone(pid: number): Promise<void> {
  for (;;) {
    try {
      process.kill(pid, 0)
    } catch {
      return
    }
    await new Promise((next) => setImmediate(next))
  }
}
