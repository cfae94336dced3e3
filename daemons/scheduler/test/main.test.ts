/**
 * The daemon as systemd runs it: processes that are killed, sessions that are cut, signals and exit codes. What it has in
 * common with the other daemons is tested in test/every-daemon.test.ts.
 */
import { listFirings, listSchedulers, putSchedule } from '@leasehold/queue'
import { beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { type TestProcess, spawnProcess } from '../../../test/harness/processes.ts'

let db: TestDatabase
beforeEach(async ({ onTestFinished }) => {
  db = await createTestDatabase()
  onTestFinished(() => db.drop())
  await db.pool.query("insert into leasehold.stages (name) values ('work')")
  await putSchedule(db.pool, { name: 'beat', stage: 'work', everyMs: 1_000, owner: 'sql' })
})

function daemon(env: Record<string, string> = {}): TestProcess {
  return spawnProcess({
    script: 'daemons/scheduler/src/main.ts',
    env: { DATABASE_URL: db.url, LEASEHOLD_SCHEDULER_POLL_MS: '200', ...env },
  })
}

async function firings(atLeast: number): Promise<Date[]> {
  await expect.poll(async () => (await listFirings(db.pool)).length).toBeGreaterThanOrEqual(atLeast)
  return (await listFirings(db.pool)).map(({ slot }) => slot).toSorted((a, b) => a.getTime() - b.getTime())
}

/** Every second from the first firing to the last, each with one task. */
async function expectEverySecondOnce(): Promise<void> {
  const slots = (await firings(1)).map((slot) => slot.getTime())
  expect(slots).toEqual(slots.map((_, i) => slots[0]! + i * 1_000))
  const { rows } = await db.pool.query("select meta ->> 'slot' from leasehold.tasks")
  expect(rows).toHaveLength(slots.length)
}

test('two daemons fire every second once, although one is killed and the sessions of the other are cut', async () => {
  const [first, second] = [daemon(), daemon()]
  await Promise.all([first.waitForLine(/scheduler.started/), second.waitForLine(/scheduler.started/)])
  await firings(2)
  first.kill('SIGKILL')
  const before = (await listFirings(db.pool)).length
  await firings(before + 2)
  await db.pool.query(
    "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name = 'leasehold scheduler'",
  )
  await firings(before + 5)
  second.kill('SIGTERM')
  expect(await second.exit).toEqual({ code: 0, signal: null })
  await expectEverySecondOnce()
  const states = (await listSchedulers(db.pool)).map(({ status }) => status)
  expect(states).toContain('stopped')
})

test('a daemon waits for its database, says so once, and ends at once when told to', async () => {
  const waiting = daemon({ DATABASE_URL: 'postgres://nobody@127.0.0.1:1/nowhere' })
  await waiting.waitForLine(/"event":"start.waiting"/)
  waiting.kill('SIGTERM')
  expect(await waiting.exit).toEqual({ code: 0, signal: null })
  expect(waiting.output().match(/start\.waiting/g)).toHaveLength(1)
})

test('a wrong setting ends with 2', async () => {
  const wrong = daemon({ LEASEHOLD_SCHEDULER_POLL_MS: '5' })
  expect(await wrong.exit).toEqual({ code: 2, signal: null })
  expect(wrong.output()).toContain('LEASEHOLD_SCHEDULER_POLL_MS')
})
