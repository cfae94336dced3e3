/**
 * Runners that are killed, stopped and restarted: nothing is lost, nothing is settled twice.
 *
 * Real processes, real signals. Each task writes one row in its settling transaction; the rows are the proof.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { getTask } from '@leasehold/queue'
import type { TestDatabase } from '../../../test/harness/database.ts'
import { afterEach, beforeEach, expect, test } from 'vitest'
import {
  attemptsOf,
  createScene,
  endOf,
  endsOf,
  eventually,
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
let folder: string
beforeEach(async () => {
  db = await createScene()
  folder = await mkdtemp(join(tmpdir(), 'leasehold-runner-'))
})
afterEach(async () => {
  await db.drop()
  await rm(folder, { recursive: true })
})

test('after kill -9 another runner takes the tasks over once the TTL has passed, without any monitor', async () => {
  const first = await startDaemon(db.url, { stages: ['held'], slot: 'held@1' })
  const ids = await insertTasks(db.pool, 'held', [{}, {}, {}])
  for (const id of ids) await first.waitForLine(new RegExp(`^entered held ${id} 1$`))
  const second = await startDaemon(db.url, { stages: ['held'], slot: 'held@2' })
  second.kill('SIGUSR2')
  first.kill('SIGKILL')
  await first.exit
  await passTime(db, ttlMs * 0.5, ['held@2'])
  expect(await leaseCount(db.pool), 'leases outlive their worker for the TTL').toBe(3)
  await passTime(db, ttlMs * 0.6, ['held@2'])
  const tasks = await endsOf(db.pool, ids)
  expect(tasks.map((task) => task.state)).toEqual(['done', 'done', 'done'])
  for (const id of ids) {
    expect((await attemptsOf(db.pool, id)).map((a) => [a.outcome, a.attempt])).toEqual([
      ['lost', 1],
      ['done', 1],
    ])
  }
  expect(await wrongEffects(db.pool, ids)).toEqual([])
  await second.waitForLine(/"event":"worker.released"/)
  await expectSound(db.pool)
})

test('after kill -9 the tasks are free at once when the slot is started again', async () => {
  const first = await startDaemon(db.url, { stages: ['held'], slot: 'held@1' })
  const ids = await insertTasks(db.pool, 'held', [{}, {}])
  for (const id of ids) await first.waitForLine(new RegExp(`^entered held ${id} 1$`))
  first.kill('SIGKILL')
  await first.exit
  const again = await startDaemon(db.url, { stages: ['held'], slot: 'held@1' })
  for (const id of ids) await again.waitForLine(new RegExp(`^entered held ${id} 1$`))
  again.kill('SIGUSR2')
  await endsOf(db.pool, ids)
  expect((await attemptsOf(db.pool, ids[0]!)).map((a) => [a.outcome, a.error?.code])).toEqual([
    ['lost', 'worker_superseded'],
    ['done', undefined],
  ])
  expect(await wrongEffects(db.pool, ids)).toEqual([])
  await expectSound(db.pool)
})

test('under kill -9 again and again every task is settled exactly once', async () => {
  const survivor = await startDaemon(db.url, { stages: ['quick'], slot: 'quick@1' })
  const ids: string[] = []
  for (let round = 0; round < 4; round++) {
    const victim = await startDaemon(db.url, { stages: ['quick'], slot: 'quick@2' })
    const written = victim.waitForLine(/^written/).then(() => true)
    // Until it has done something: the survivor alone may be quicker than it is.
    for (let struck = false; !struck;) {
      const batch = await insertTasks(
        db.pool,
        'quick',
        Array.from({ length: 150 }, () => ({ ms: 10 })),
      )
      ids.push(...batch)
      struck = await Promise.race([written, endsOf(db.pool, batch).then(() => false)])
    }
    victim.kill('SIGKILL')
    await victim.exit
  }
  await passTime(db, ttlMs * 1.1, ['quick@1'])
  const tasks = await endsOf(db.pool, ids)
  expect(tasks.filter((task) => task.state !== 'done')).toEqual([])
  expect(await wrongEffects(db.pool, ids)).toEqual([])
  expect(survivor.output()).not.toContain('"level":"error"')
  await expectSound(db.pool)
})

test('a stopped runner that wakes up beyond its TTL changes nothing, says so and goes on under a new id', async () => {
  const first = await startDaemon(db.url, { stages: ['held'], slot: 'held@1' })
  const [id] = await insertTasks(db.pool, 'held', [{}])
  await first.waitForLine(new RegExp(`^entered held ${id} 1$`))
  first.kill('SIGSTOP')
  const second = await startDaemon(db.url, { stages: ['held'], slot: 'held@2' })
  await passTime(db, ttlMs * 1.1, ['held@2'])
  await second.waitForLine(new RegExp(`^entered held ${id} 1$`))
  const before = await db.pool.query('select * from leasehold.leases')
  first.kill('SIGUSR2') // the handler goes on as soon as its process does
  first.kill('SIGCONT')
  await first.waitForLine(/"event":"worker.ended".*"reason":"lost"/)
  await first.waitForLine(/"event":"slot.taken"/, { after: first.output().indexOf('"event":"worker.ended"') })
  expect((await db.pool.query('select * from leasehold.leases')).rows).toEqual(before.rows)
  expect((await db.pool.query('select * from public.effects')).rows).toEqual([])
  second.kill('SIGUSR2')
  expect((await endOf(db.pool, id!)).state).toBe('done')
  expect(await wrongEffects(db.pool, [id!])).toEqual([])
  second.kill('SIGTERM')
  await second.exit
  const [next] = await insertTasks(db.pool, 'held', [{}])
  await first.waitForLine(new RegExp(`^written ${next}$`))
  expect(first.output()).not.toContain('"event":"runner.fault"')
  await expectSound(db.pool)
})

test('a payload that kills its process three times is quarantined and its neighbours are done', async () => {
  await db.pool.query("select leasehold.register_stage('deadly')")
  const ids = await insertTasks(db.pool, 'deadly', [{}, { kill: true }, {}, {}, {}])
  const [, killer] = ids
  const allEnded = endsOf(db.pool, ids, 110_000) // four starts of a process, and more
  for (let ended = false; !ended;) {
    const daemon = spawnDaemon(db.url, { stages: ['deadly'], slot: 'deadly@1' })
    ended = await Promise.race([daemon.exit.then(() => false), allEnded.then(() => true)])
    daemon.kill('SIGTERM')
    await daemon.exit
  }
  const tasks = await allEnded
  expect(tasks.map((task) => task.state)).toEqual(['done', 'dead', 'done', 'done', 'done'])
  expect(tasks[1]!.lastError).toMatchObject({ code: 'quarantined' })
  expect((await attemptsOf(db.pool, killer!)).map((a) => a.outcome)).toEqual(['lost', 'lost', 'dead'])
  expect(await wrongEffects(db.pool, ids.filter((id) => id !== killer))).toEqual([]) // prettier-ignore
  await expectSound(db.pool)
})

test('an error that nobody catches ends the process, and counts as a crash of what it held, not as a failure', async () => {
  const first = await startDaemon(db.url, { stages: ['careless'], slot: 'careless@1' })
  const ids = await insertTasks(db.pool, 'careless', [{}, { kill: true }])
  expect(await first.exit).toEqual({ code: 1, signal: null })
  expect(first.output()).toContain('in a timer')
  await startDaemon(db.url, { stages: ['held'], slot: 'careless@1' }) // the slot's next process frees them
  for (const id of ids) {
    expect((await attemptsOf(db.pool, id)).map((a) => [a.outcome, a.error?.code])).toEqual([
      ['lost', 'worker_superseded'],
    ])
    expect(await getTask(db.pool, id)).toMatchObject({ state: 'ready', crashes: 1 })
  }
})

test('a handler that computes for three TTLs without a pause keeps its lease', async () => {
  const first = await startDaemon(db.url, { stages: ['busy'], slot: 'busy@1' })
  await startDaemon(db.url, { stages: ['held'], slot: 'held@1' }) // one that would release it
  const until = join(folder, 'go')
  const [id] = await insertTasks(db.pool, 'busy', [{ until }])
  await first.waitForLine(new RegExp(`^entered busy ${id} 1$`))
  await passTime(db, ttlMs * 3, ['busy@1', 'held@1'])
  await writeFile(until, '')
  expect((await endOf(db.pool, id!)).state).toBe('done')
  expect((await attemptsOf(db.pool, id!)).map((a) => a.outcome)).toEqual(['done'])
  expect(first.output()).not.toContain('loop.wedged')
  await expectSound(db.pool)
})

test('a main loop that stands still beyond its limit is seen as wedged and loses its leases', async () => {
  const env = { LEASEHOLD_WEDGE_LIMIT_MS: '2000' }
  const first = await startDaemon(db.url, { stages: ['busy'], slot: 'busy@1', env })
  const until = join(folder, 'go')
  const [id] = await insertTasks(db.pool, 'busy', [{ until }])
  await first.waitForLine(new RegExp(`^entered busy ${id} 1$`))
  const second = await startDaemon(db.url, { stages: ['busy'], slot: 'busy@2' })
  await eventually(async () => {
    // The lease is not renewed although beats go on.
    const { rows } = await db.pool.query<{ unrenewed: boolean }>(
      `select expires_at < beat_at + ttl - beat_interval and loop_at < beat_at - interval '2 seconds' as unrenewed
       from leasehold.workers where slot = 'busy@1'`,
    )
    return rows[0]?.unrenewed
  })
  await passTime(db, ttlMs * 1.1, ['busy@2'])
  await second.waitForLine(/"event":"worker.released".*"slot":"busy@1"/)
  await second.waitForLine(new RegExp(`^entered busy ${id} 1$`))
  await writeFile(until, '')
  await first.waitForLine(/"event":"loop.wedged"/)
  await first.waitForLine(/"event":"worker.ended".*"reason":"lost"/)
  expect((await endOf(db.pool, id!)).state).toBe('done')
  expect((await attemptsOf(db.pool, id!)).map((a) => a.outcome)).toEqual(['lost', 'done'])
  expect(await wrongEffects(db.pool, [id!])).toEqual([])
  await expectSound(db.pool)
})

test('a runner whose slot is taken by another process ends with SLOT_TAKEN, exit code 5, and changes nothing', async () => {
  const first = await startDaemon(db.url, { stages: ['held'], slot: 'held@1' })
  const [id] = await insertTasks(db.pool, 'held', [{}])
  await first.waitForLine(new RegExp(`^entered held ${id} 1$`))
  const second = await startDaemon(db.url, { stages: ['held'], slot: 'held@1' })
  await second.waitForLine(new RegExp(`^entered held ${id} 1$`))
  expect(await first.exit).toEqual({ code: 5, signal: null })
  expect(first.output()).toContain('[SLOT_TAKEN]')
  second.kill('SIGUSR2')
  expect((await endOf(db.pool, id!)).state).toBe('done')
  expect(await wrongEffects(db.pool, [id!])).toEqual([])
  expect(await leaseCount(db.pool)).toBe(0)
  await expectSound(db.pool)
})
