/**
 * The factory's manifest: what it declares, and one of its workers for real: a runner process, its programs, and what is
 * left of them when a task is cancelled, takes too long, or the runner is killed.
 */
import { cancelTask, getTask, taskLogs, type TaskStatus } from '@leasehold/queue'
import { readManifest } from '@leasehold/manifest'
import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../../../test/harness/database.ts'
import { spawnProcess, type TestProcess } from '../../../test/harness/processes.ts'

const config = fileURLToPath(new URL('../leasehold.config.ts', import.meta.url))

test('twenty kinds in 27 processes, and five jobs by the clock in one more', async () => {
  const { workers, schedules, commands } = await readManifest(config)
  const kinds = workers.filter(({ name }) => name !== 'clockwork')
  expect(kinds).toHaveLength(20)
  expect(kinds.flatMap(({ slots }) => slots)).toHaveLength(27)
  expect(workers.find(({ name }) => name === 'lead-verify')?.slots).toHaveLength(8)
  const clockwork = workers.find(({ name }) => name === 'clockwork')
  expect(clockwork?.slots).toEqual(['clockwork@1'])
  expect(schedules.map(({ stage }) => stage)).toEqual(clockwork?.stages)
  expect(commands).toHaveLength(25)
})

describe('one of its workers', () => {
  let db: TestDatabase
  let runner: TestProcess
  beforeAll(async () => {
    db = await createTestDatabase()
    runner = await startRunner('lead-verify@1')
  })
  afterAll(() => db.drop())

  async function startRunner(slot: string): Promise<TestProcess> {
    const process = spawnProcess({
      script: 'daemons/runner/src/main.ts',
      args: ['--config', config, '--slot', slot],
      // The lease is long: what is taken over here is taken over at once, by the slot.
      env: { DATABASE_URL: db.url, LEASEHOLD_POLL_MS: '100' },
    })
    await process.waitForLine(/"event":"slot.taken"/)
    return process
  }

  async function submit(payload: object, more: { timeoutMs?: number } = {}): Promise<string> {
    const { rows } = await db.pool.query<{ id: string }>(
      `insert into leasehold.tasks (stage, payload, timeout) values ('lead-verify', $1, $2::int * interval '1 ms') returning id::text`,
      [JSON.stringify(payload), more.timeoutMs ?? null],
    )
    return rows[0]!.id
  }

  const until = (id: string, state: string): Promise<void> =>
    expect.poll(async () => (await getTask(db.pool, id))?.state, { interval: 50 }).toBe(state)

  const statusOf = async (id: string): Promise<TaskStatus> => (await getTask(db.pool, id))!

  /** A task whose program works for minutes when it is let. */
  const submitLong = (more: { timeoutMs?: number } = {}): Promise<string> =>
    submit({ items: ['a', ...Array.from({ length: 5000 }, String)], pauseMs: 50 }, more)

  /** A task whose program is at work. */
  async function atWork(): Promise<string> {
    const id = await submitLong()
    await expect.poll(() => taskLogs(db.pool, id), { interval: 50 }).not.toEqual([])
    expect(programsOf(id).length).toBeGreaterThan(0)
    return id
  }

  test('does a task: the payload is worked, its lines are logged, its last line is the result', async () => {
    const id = await submit({ items: ['ann@mail.example', 7, 'bob@mail.example'] })
    await until(id, 'done')
    expect((await statusOf(id)).result).toEqual({
      exitCode: 0,
      signal: null,
      durationMs: expect.any(Number),
      lastLines: expect.arrayContaining([expect.stringMatching(/^lead-verify: ann@mail\.example → /)]),
      output: { processed: 3, written: 2, errors: [{ index: 1, reason: 'is no text' }] },
    })
    const lines = await taskLogs(db.pool, id)
    expect(lines.map(({ level, message }) => `${level} ${message}`)).toContain(
      'warn lead-verify: item 1 is no text',
    )
    const { rows } = await db.pool.query(
      `select expected_workers, max_attempts, key_limit from leasehold.stages where name = 'lead-verify'`,
    )
    expect(rows).toEqual([{ expected_workers: 8, max_attempts: 3, key_limit: 1 }])
  })

  test('gives up at once on a payload that no attempt can use, and says why', async () => {
    const id = await submit(['a list'])
    await until(id, 'dead')
    const { attempt, lastError } = await statusOf(id)
    expect({ attempt, code: lastError?.code }).toEqual({ attempt: 1, code: 'exit_65' })
    expect(lastError?.message).toContain('lead-verify: the payload must be a JSON object')
  })

  test('hands whole numbers of any size to the program as they were submitted', async () => {
    const { rows } = await db.pool.query<{ id: string }>(
      `insert into leasehold.tasks (stage, payload) values ('lead-verify', '[12345678901234567891]') returning id::text`,
    )
    await until(rows[0]!.id, 'dead')
    expect((await statusOf(rows[0]!.id)).lastError?.message).toContain('not [12345678901234567891]')
  })

  test('ends the program of a task that is cancelled', async () => {
    const id = await atWork()
    await cancelTask(db.pool, id)
    await expect.poll(() => programsOf(id), { interval: 50 }).toEqual([])
    expect((await statusOf(id)).state).toBe('cancelled')
  })

  test('ends the program of a task that takes too long', async () => {
    const id = await submitLong({ timeoutMs: 3000 })
    await expect.poll(() => programsOf(id).length, { interval: 20 }).toBeGreaterThan(0)
    await expect.poll(async () => (await statusOf(id)).lastError?.code).toBe('timeout')
    await cancelTask(db.pool, id) // or it would be tried again
    await expect.poll(() => programsOf(id), { interval: 50 }).toEqual([])
  })

  test('leaves no program behind when it is killed, and its successor does the task', async () => {
    const id = await atWork()
    const before = programsOf(id)
    runner.kill('SIGKILL')
    await runner.exit
    await expect
      .poll(() => before.filter((pid) => programsOf(id).includes(pid)), { interval: 50 })
      .toEqual([])
    await db.pool.query(`update leasehold.stages set max_attempts = 1 where name = 'lead-verify'`)
    runner = await startRunner('lead-verify@1')
    await expect.poll(() => programsOf(id).length, { interval: 50 }).toBeGreaterThan(0)
    expect(await statusOf(id)).toMatchObject({ state: 'running', crashes: 1, attempt: 1 })
    await cancelTask(db.pool, id)
  })

  test('waits for its program when it is told to end', async () => {
    // Long enough to be seen at work, also by who looks seldom.
    const id = await submit({ items: ['a', 'b', 'c', 'd'], pauseMs: 1_500 })
    await expect.poll(() => programsOf(id).length, { interval: 50 }).toBeGreaterThan(0)
    runner.kill('SIGTERM')
    expect(await runner.exit).toEqual({ code: 0, signal: null })
    expect(await statusOf(id)).toMatchObject({ state: 'done', result: { output: { written: 4 } } })
  })
})

/** The living processes that work for a task. */
function programsOf(taskId: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/environ`, 'latin1')
          .split('\0')
          .includes(`LEASEHOLD_TASK_ID=${taskId}`)
      } catch {
        return false // ended meanwhile, or dead and not collected
      }
    })
    .map(Number)
}
