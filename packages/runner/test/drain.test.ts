/**
 * How a runner ends: a first SIGTERM drains, a second one stops now, and one that comes during the start ends that too.
 */
import type { TestDatabase } from '../../../test/harness/database.ts'
import type { TestProcess } from '../../../test/harness/processes.ts'
import { afterEach, beforeEach, expect, test } from 'vitest'
import {
  attemptsOf,
  createScene,
  endOf,
  endsOf,
  expectSound,
  insertTasks,
  leaseCount,
  passTime,
  spawnDaemon,
  startDaemon,
  ttlMs,
  wrongEffects,
} from './scene.ts'

let db: TestDatabase
beforeEach(async () => {
  db = await createScene()
})
afterEach(() => db.drop())

const clean = { code: 0, signal: null }

async function liveWorkers(): Promise<number> {
  const { rows } = await db.pool.query<{ n: number }>(
    'select count(*)::integer as n from leasehold.workers where ended_at is null',
  )
  return rows[0]!.n
}

async function stateOf(id: string): Promise<[string, number]> {
  const { rows } = await db.pool.query<{ state: string; attempt: number }>(
    'select state, attempt from leasehold.task_status where task_id = $1',
    [id],
  )
  return [rows[0]!.state, rows[0]!.attempt]
}

/** Starts a runner that works on one task, and asks it to drain. */
async function drainingDaemon(
  stage: string,
  env: Record<string, string> = {},
): Promise<[TestProcess, string]> {
  const daemon = await startDaemon(db.url, { stages: [stage], slot: `${stage}@1`, env })
  const [id] = await insertTasks(db.pool, stage, [{}])
  await daemon.waitForLine(new RegExp(`^entered ${stage} ${id} 1$`))
  daemon.kill('SIGTERM')
  await daemon.waitForLine(/"event":"drain.begun"/)
  return [daemon, id!]
}

test('a draining runner claims nothing more, finishes what runs, leaves and exits with 0', async () => {
  const [daemon, running] = await drainingDaemon('held')
  const [later] = await insertTasks(db.pool, 'held', [{}])
  daemon.kill('SIGUSR2')
  expect(await daemon.exit).toEqual(clean)
  expect(await stateOf(running)).toEqual(['done', 1])
  expect((await stateOf(later!))[0]).toBe('ready')
  expect(daemon.output()).not.toContain(`entered held ${later}`)
  expect(await liveWorkers()).toBe(0)
  expect(daemon.output()).toContain('"event":"runner.left"')
  await expectSound(db.pool)
})

test('beats stop last: a handler that needs three TTLs to end a drain is not taken over', async () => {
  const [daemon, id] = await drainingDaemon('held')
  const other = await startDaemon(db.url, { stages: ['held'], slot: 'held@2' })
  await passTime(db, ttlMs * 3, ['held@1', 'held@2'])
  daemon.kill('SIGUSR2')
  expect(await daemon.exit).toEqual(clean)
  expect((await attemptsOf(db.pool, id)).map((a) => a.outcome)).toEqual(['done'])
  expect(await wrongEffects(db.pool, [id])).toEqual([])
  expect(other.output()).not.toContain('worker.released')
})

test('what does not finish within the drain limit is given back without burning an attempt', async () => {
  const [daemon, id] = await drainingDaemon('held', { LEASEHOLD_DRAIN_TIMEOUT_MS: '300' })
  await daemon.waitForLine(new RegExp(`^aborted ${id} drain$`))
  expect(await daemon.exit).toEqual(clean)
  expect((await attemptsOf(db.pool, id)).map((a) => a.outcome)).toEqual(['released'])
  expect(await stateOf(id)).toEqual(['ready', expect.any(Number)])
  expect(await leaseCount(db.pool)).toBe(0)
  const next = await startDaemon(db.url, { stages: ['held'], slot: 'held@2' })
  await next.waitForLine(new RegExp(`^entered held ${id} 1$`)) // the first attempt again
  next.kill('SIGUSR2')
  expect((await endOf(db.pool, id)).crashes).toBe(0)
  await expectSound(db.pool)
})

test('a handler that ignores its abort signal and clings to the process does not keep it', async () => {
  const [daemon, id] = await drainingDaemon('deaf', { LEASEHOLD_DRAIN_TIMEOUT_MS: '300' })
  expect(await daemon.exit).toEqual(clean)
  expect((await attemptsOf(db.pool, id)).map((a) => a.outcome)).toEqual(['released'])
  expect(await leaseCount(db.pool)).toBe(0)
})

test('a second SIGTERM gives back at once what runs', async () => {
  const [daemon, id] = await drainingDaemon('held', { LEASEHOLD_DRAIN_TIMEOUT_MS: '600000' })
  await new Promise((resolve) => setTimeout(resolve, 300)) // nearer to the first one it would be taken for its echo
  daemon.kill('SIGTERM')
  await daemon.waitForLine(new RegExp(`^aborted ${id} drain$`))
  expect(await daemon.exit).toEqual(clean)
  expect((await attemptsOf(db.pool, id)).map((a) => a.outcome)).toEqual(['released'])
  expect(await liveWorkers()).toBe(0)
  await expectSound(db.pool)
})

test('an operator can ask a slot to drain', async () => {
  const daemon = await startDaemon(db.url, { stages: ['held'], slot: 'held@1' })
  const [id] = await insertTasks(db.pool, 'held', [{}])
  await daemon.waitForLine(new RegExp(`^entered held ${id} 1$`))
  await db.pool.query("select leasehold.drain_slot('held@1')")
  await daemon.waitForLine(/"event":"drain.begun"/)
  daemon.kill('SIGUSR2')
  expect(await daemon.exit).toEqual(clean)
  expect(await stateOf(id!)).toEqual(['done', 1])
})

test('SIGTERM at any moment of the start ends it in order and leaves no lease', async () => {
  await db.pool.query("select leasehold.register_stage('quick')")
  const ids = await insertTasks(
    db.pool,
    'quick',
    Array.from({ length: 100 }, () => ({ ms: 20 })),
  )
  // The time that a start takes varies with the machine: moments are spread over one that was measured just now.
  const measured = spawnDaemon(db.url, { stages: ['held'], slot: 'held@1' })
  const begunAt = performance.now()
  await measured.waitForLine(/slot.taken/)
  const startMs = performance.now() - begunAt
  measured.kill('SIGTERM')
  expect(await measured.exit).toEqual(clean)
  const moments = 8
  for (let moment = 0; moment < moments; moment++) {
    const daemon = spawnDaemon(db.url, { stages: ['quick'], slot: 'quick@1' })
    await new Promise((resolve) => setTimeout(resolve, (startMs * 1.3 * moment) / moments))
    daemon.kill('SIGTERM')
    const exit = await daemon.exit
    // Before the program's first line nobody listens to signals: then Node itself is ended by it.
    if (daemon.output() !== '' || exit.signal === null) expect(exit, daemon.output()).toEqual(clean)
    expect(await leaseCount(db.pool)).toBe(0)
    expect(await liveWorkers()).toBe(0)
  }
  const { rows } = await db.pool.query('select * from leasehold.attempts where outcome not in ($1, $2)', [
    'done',
    'released',
  ])
  expect(rows).toEqual([])
  await startDaemon(db.url, { stages: ['quick'], slot: 'quick@1' })
  expect((await endsOf(db.pool, ids)).filter((task) => task.state !== 'done')).toEqual([])
  expect(await wrongEffects(db.pool, ids)).toEqual([])
  await expectSound(db.pool)
})
