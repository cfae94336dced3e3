/**
 * Everything in the background, with real processes: started once however often it is asked for, shown with what the database
 * says, started again when it dies, and gone after a stop.
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
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
  await manifest('my.json', {
    workers: { echoing: { module: fixtureStages, stages: ['echo'], instances: 2 } },
  })
})
afterAll(async () => {
  await background('stop', '--now')
  await db.drop()
  await rm(folder, { recursive: true, force: true })
})

function background(...args: string[]): Promise<Result> {
  return leasehold(['background', ...args, '--dir', folder], { DATABASE_URL: db.url })
}
const start = (file = 'my.json'): Promise<Result> => background('start', '--config', join(folder, file))

async function manifest(name: string, content: object): Promise<void> {
  await writeFile(join(folder, name), JSON.stringify({ monitors: 0, schedulers: 0, controls: 0, ...content }))
}

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
  // Who was told that it runs may rely on it: nothing is waited for here.
  expect((await status()).rows.map(({ worker, remark }) => [worker?.slot, remark])).toEqual([
    ['echoing@1', null],
    ['echoing@2', null],
  ])
})

test('a shell with another TMPDIR sees the same processes', async () => {
  const elsewhere = { DATABASE_URL: db.url, TMPDIR: folder }
  const seen = await leasehold(['background', 'status', '--dir', folder, '--json'], elsewhere)
  expect((JSON.parse(seen.stdout) as Status).keeper?.pid).toBe((await status()).keeper!.pid)
  const again = ['background', 'start', '--dir', folder, '--config', join(folder, 'my.json')]
  expect((await leasehold(again, elsewhere)).code).toBe(4)
})

test('status names a process without a worker and a worker without a process', async () => {
  const apart = /(down|process without worker).*worker without process here/
  const killed = new Set<number>()
  let said = ''
  // It is started again after 1 s, 2 s, 4 s …: however long an answer takes here, one comes within a pause.
  while (!apart.test(said)) {
    const { rows } = await status()
    said = rows.map(({ remark }) => remark).join(', ')
    const pid = rows[0]?.process?.pid
    // One that was killed may take a while to be gone.
    if (pid == null || rows[0]?.worker == null || killed.has(pid) || apart.test(said)) continue
    process.kill(pid, 'SIGKILL')
    killed.add(pid)
  }
  await expect.poll(async () => (await status()).rows[0]?.worker?.slot).toBe('echoing@1')
  await expect
    .poll(async () => (await status()).rows[0]?.process)
    .toMatchObject({ name: 'echoing@1', restarts: killed.size })
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

test('programs that die at once are named with exit code and last lines; the others run, and a second start starts none', async () => {
  await writeFile(
    join(folder, 'dying.mjs'),
    `console.error('the made-up device is missing'); process.exit(7)`,
  )
  await manifest('dying.json', {
    workers: {
      dying: { module: './dying.mjs', stages: ['gone'] },
      echoing: { module: fixtureStages, stages: ['echo'] },
    },
  })
  const { code, stdout, stderr } = await start('dying.json')
  expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
  expect(stderr).toContain('1 of 2 processes ended as soon as they were started; the others run')
  expect(stderr).toMatch(/^dying@1 ended with code 7\n    the made-up device is missing$/m)
  expect(stderr).not.toContain('echoing@1 ')
  expect((await start('dying.json')).code).toBe(4)
  expect((await status()).rows.map(({ worker }) => worker?.slot)).toContain('echoing@1')
  expect((await background('stop')).code).toBe(0)
})

test('a program that is wrongly configured stops everything, and the start says which and why', async () => {
  await manifest('absent.json', { workers: { absent: { module: './absent.mjs', stages: ['gone'] } } })
  const { code, stderr } = await start('absent.json')
  expect(code).toBe(2)
  expect(stderr).toContain('1 of 1 processes ended as soon as they were started; everything is stopped')
  expect(stderr).toMatch(/^absent@1 ended with code 2\n.*absent\.mjs/m)
  expect((await background('status')).code).toBe(4)
})

test('a manifest with a monitor alone runs until it is stopped', async () => {
  await manifest('watching.json', { monitors: 1 })
  const { code, stdout, stderr } = await start('watching.json')
  expect([code, stdout], stderr).toEqual([0, expect.stringMatching(/^1 processes run in the background/)])
  expect((await status()).rows[0]?.process).toMatchObject({ name: 'heartbeat-monitor@1', restarts: 0 })
  expect((await background('stop')).code).toBe(0)
})

test('a control service is at work when it says so, and is no process without worker', async () => {
  await manifest('controlled.json', { controls: 1, service: { env: { LEASEHOLD_CONTROL_PORT: '0' } } })
  const { code, stdout, stderr } = await start('controlled.json')
  expect([code, stdout], stderr).toEqual([0, expect.stringMatching(/^1 processes run in the background/)])
  const [row] = (await status()).rows
  expect(row).toMatchObject({ process: { name: 'control@1', restarts: 0 }, remark: null })
  expect(await readFile(join(folder, 'logs', 'control@1.log'), 'utf8')).toContain('control.started')
  expect((await background('stop')).code).toBe(0)
})

test('what the keeper said stays in its log when it is started again', async () => {
  const log = await readFile(join(folder, 'logs', 'keeper.log'), 'utf8')
  expect(log).toMatch(
    /echoing@2 \| started[^]*dying@1 \| ended with code 7[^]*heartbeat-monitor@1 \| started/,
  )
})

test('a manifest that is wrong, or declares nothing, is refused before anything is started or written', async () => {
  await writeFile(join(folder, 'wrong.json'), '{"workers": {"x": {}}}')
  await manifest('empty.json', {})
  for (const [file, said] of [
    ['wrong.json', 'workers.x'],
    ['empty.json', 'declares no process'],
  ] as const) {
    const { code, stderr } = await start(file)
    expect([code, stderr]).toEqual([2, expect.stringContaining(said)])
  }
})

test('the keeper’s own exit code says why it ended', async () => {
  const keep = ['background', 'keep', '--dir', folder, '--config', join(folder, 'absent.json')]
  expect((await leasehold(keep, { DATABASE_URL: db.url })).code).toBe(2)
})
