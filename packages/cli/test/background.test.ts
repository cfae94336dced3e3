/**
 * Everything in the background, with real processes: started once however often it is asked for, shown with what the database
 * says, started again when it dies, and gone after a stop.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { fixtureStages, leasehold, type Result } from './leasehold.ts'

let db: TestDatabase
let folder: string
beforeAll(async () => {
  db = await createTestDatabase()
  folder = await mkdtemp(join(tmpdir(), 'leasehold-background-'))
  const manifest = {
    workers: { echoing: { module: fixtureStages, stages: ['echo'], instances: 2 } },
    monitors: 0,
    schedulers: 0,
  }
  await writeFile(join(folder, 'my.json'), JSON.stringify(manifest))
})
afterAll(async () => {
  await background('stop', '--now')
  await db.drop()
  await rm(folder, { recursive: true, force: true })
})

function background(...args: string[]): Promise<Result> {
  return leasehold(['background', ...args, '--dir', folder], { DATABASE_URL: db.url })
}
const start = (): Promise<Result> => background('start', '--config', join(folder, 'my.json'))

interface Status {
  readonly keeper: { readonly pid: number } | null
  readonly rows: readonly {
    readonly process: { readonly name: string; readonly pid: number | null; readonly restarts: number } | null
    readonly worker: { readonly slot: string; readonly status: string } | null
    readonly remark: string | null
  }[]
}
async function status(): Promise<Status> {
  return JSON.parse((await background('status', '--json')).stdout) as Status
}

test('of two starts at once one starts everything, and the other says that it runs', async () => {
  const [one, other] = await Promise.all([start(), start()])
  expect(new Set([one.code, other.code]), one.stderr + other.stderr).toEqual(new Set([0, 4]))
  expect(one.stderr + other.stderr).toContain('It runs already')
  await expect
    .poll(async () => (await status()).rows.map(({ worker, remark }) => [worker?.slot, remark]), {
      timeout: 40_000,
    })
    .toEqual([
      ['echoing@1', null],
      ['echoing@2', null],
    ])
})

test('status names a process without a worker and a worker without a process', async () => {
  const before = await status()
  const killed = before.rows[0]!.process!.pid!
  process.kill(killed, 'SIGKILL')
  await expect
    .poll(async () => (await status()).rows.map(({ remark }) => remark).join(', '), {
      timeout: 20_000,
      interval: 50,
    })
    .toMatch(/(down|process without worker).*worker without process here/)
  await expect.poll(async () => (await status()).rows[0]?.worker?.slot, { timeout: 40_000 }).toBe('echoing@1')
  expect((await status()).rows[0]?.process).toMatchObject({ name: 'echoing@1', restarts: 1 })
})

test('stop waits until everything has drained; then there is nothing to stop', async () => {
  const pids = (await status()).rows.map(({ process }) => process!.pid!)
  const stopped = await background('stop')
  expect([stopped.code, stopped.stdout]).toEqual([0, 'Everything has ended.\n'])
  for (const pid of pids) expect(() => process.kill(pid, 0)).toThrow('ESRCH')
  const { rows } = await db.pool.query(`select distinct end_reason from leasehold.workers where ended_at is not null and end_reason <> 'superseded'`) // prettier-ignore
  expect(rows).toEqual([{ end_reason: 'graceful-shutdown' }])
  expect((await background('stop')).code).toBe(4)
  expect((await background('status')).stdout).toContain('Nothing runs in the background')
})

test('what cannot start says why', async () => {
  await writeFile(join(folder, 'wrong.json'), '{"workers": {"x": {}}}')
  const { code, stderr } = await background('start', '--config', join(folder, 'wrong.json'))
  expect(code).toBe(1)
  expect(stderr).toContain('workers.x')
})
