/**
 * Runners that are killed, stopped and restarted: nothing is lost, nothing is settled twice.
 *
 * Real processes, real signals. Each task writes one row in its settling transaction; the rows are the proof.
 */
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
  spawnDaemon,
  startDaemon,
  ttlMs,
  beatMs,
  wrongEffects,
} from './scene.ts'

let db: TestDatabase
beforeEach(async () => {
  db = await createScene()
})
afterEach(() => db.drop())

async function msSince(client: { query: TestDatabase['pool']['query'] }, id: string, killedAt: Date): Promise<number> {
  const { rows } = await client.query<{ at: Date }>('select at from public.effects where task_id = $1', [id])
  return rows[0]!.at.getTime() - killedAt.getTime()
}

async function now(): Promise<Date> {
  const { rows } = await db.pool.query<{ at: Date }>('select clock_timestamp() as at')
  return rows[0]!.at
}

test('after kill -9 another runner takes the tasks over within TTL and one scan, without any monitor', async () => {
  const first = await startDaemon(db.url, { stages: ['held'], slot: 'held@1' })
  const ids = await insertTasks(db.pool, 'held', [{}, {}, {}])
  for (const id of ids) await first.waitForLine(new RegExp(`^entered held ${id} 1$`))
  const second = await startDaemon(db.url, { stages: ['held'], slot: 'held@2' })
  second.kill('SIGUSR2')
  const killedAt = await now()
  first.kill('SIGKILL')
  const tasks = await endsOf(db.pool, ids)
  expect(tasks.map((task) => task.state)).toEqual(['done', 'done', 'done'])
  for (const id of ids) {
    expect(await msSince(db.pool, id, killedAt)).toBeLessThan(ttlMs + beatMs + 1000)
    expect((await attemptsOf(db.pool, id)).map((a) => [a.outcome, a.attempt])).toEqual([['lost', 1], ['done', 1]]) // prettier-ignore
  }
  expect(await wrongEffects(db.pool, ids)).toEqual([])
  await second.waitForLine(/"event":"worker.released"/)
  await expectSound(db.pool)
})

test('after kill -9 the tasks are free at once when the slot is started again', async () => {
  const slow = { LEASEHOLD_LEASE_TTL_MS: '90000', LEASEHOLD_BEAT_INTERVAL_MS: '30000' }
  const first = await startDaemon(db.url, { stages: ['held'], slot: 'held@1', env: slow })
  const ids = await insertTasks(db.pool, 'held', [{}, {}])
  for (const id of ids) await first.waitForLine(new RegExp(`^entered held ${id} 1$`))
  first.kill('SIGKILL')
  await first.exit
  const again = await startDaemon(db.url, { stages: ['held'], slot: 'held@1', env: slow })
  again.kill('SIGUSR2')
  const tasks = await endsOf(db.pool, ids, 5000)
  expect(tasks.map((task) => [task.state, task.crashes])).toEqual([['done', 0], ['done', 0]]) // prettier-ignore
  expect(await wrongEffects(db.pool, ids)).toEqual([])
  await expectSound(db.pool)
})

test('under kill -9 again and again every task is settled exactly once', async () => {
  const survivor = await startDaemon(db.url, { stages: ['quick'], slot: 'quick@1' })
  const ids: string[] = []
  for (let round = 0; round < 4; round++) {
    const victim = await startDaemon(db.url, { stages: ['quick'], slot: 'quick@2' })
    ids.push(...(await insertTasks(db.pool, 'quick', Array.from({ length: 150 }, () => ({ ms: 10 })))))
    await victim.waitForLine(/^written/)
    victim.kill('SIGKILL')
    await victim.exit
  }
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
  await second.waitForLine(new RegExp(`^entered held ${id} 1$`))
  const before = await db.pool.query('select * from leasehold.leases')
  first.kill('SIGUSR2') // the handler goes on as soon as its process does
  first.kill('SIGCONT')
  await first.waitForLine(new RegExp(`^aborted ${id} lease-lost$`))
  const woken = first.output().length
  await first.waitForLine(/"event":"worker.ended".*"reason":"lost"/)
  await first.waitForLine(/"event":"slot.taken"/, { after: first.output().indexOf('"event":"worker.ended"') })
  expect((await db.pool.query('select * from leasehold.leases')).rows).toEqual(before.rows)
  expect((await db.pool.query('select * from public.effects')).rows).toEqual([])
  second.kill('SIGUSR2')
  expect((await endOf(db.pool, id!)).state).toBe('done')
  expect(await wrongEffects(db.pool, [id!])).toEqual([])
  // Under its new id it works again.
  const [next] = await insertTasks(db.pool, 'held', [{}])
  second.kill('SIGKILL')
  expect((await endOf(db.pool, next!)).state).toBe('done')
  expect(first.output().slice(woken)).not.toContain('"event":"runner.fault"')
  await expectSound(db.pool)
})

test('a payload that kills its process three times is quarantined and its neighbours are done', async () => {
  await db.pool.query("select leasehold.register_stage('deadly')")
  const ids = await insertTasks(db.pool, 'deadly', [{}, { kill: true }, {}, {}, {}])
  const [, killer] = ids
  let stop = false
  const restarting = (async () => {
    while (!stop) {
      const daemon = spawnDaemon(db.url, { stages: ['deadly'], slot: 'deadly@1' })
      const exit = await Promise.race([daemon.exit, endsOf(db.pool, ids).then(() => null)])
      if (exit === null) daemon.kill('SIGTERM')
      await daemon.exit
    }
  })()
  const tasks = await endsOf(db.pool, ids)
  stop = true
  await restarting
  expect(tasks.map((task) => task.state)).toEqual(['done', 'dead', 'done', 'done', 'done'])
  expect(tasks[1]!.lastError).toMatchObject({ code: 'quarantined' })
  expect((await attemptsOf(db.pool, killer!)).map((a) => a.outcome)).toEqual(['lost', 'lost', 'dead'])
  expect(await wrongEffects(db.pool, ids.filter((id) => id !== killer))).toEqual([])
  await expectSound(db.pool)
})

test('a handler that computes for three TTLs without a pause keeps its lease', async () => {
  const first = await startDaemon(db.url, { stages: ['busy'], slot: 'busy@1' })
  await startDaemon(db.url, { stages: ['held'], slot: 'held@2' }) // one that would release it
  const [id] = await insertTasks(db.pool, 'busy', [{ ms: ttlMs * 3 }])
  expect((await endOf(db.pool, id!)).state).toBe('done')
  expect((await attemptsOf(db.pool, id!)).map((a) => a.outcome)).toEqual(['done'])
  expect(first.output()).not.toContain('loop.wedged')
  await expectSound(db.pool)
})

test('a main loop that stands still beyond its limit is seen as wedged and loses its leases', async () => {
  const wedged = { LEASEHOLD_WEDGE_LIMIT_MS: '1000' }
  const first = await startDaemon(db.url, { stages: ['busy'], slot: 'busy@1', env: wedged })
  const [id] = await insertTasks(db.pool, 'busy', [{ ms: 5000 }])
  await first.waitForLine(new RegExp(`^entered busy ${id} 1$`))
  const second = await startDaemon(db.url, { stages: ['busy'], slot: 'busy@2' })
  await eventually(async () => {
    const { rows } = await db.pool.query("select extract(epoch from leasehold.clock() - loop_at) as age from leasehold.workers where slot = 'busy@1'")
    return Number(rows[0]!['age']) > 1
  })
  await second.waitForLine(/"event":"worker.released".*"slot":"busy@1"/)
  await second.waitForLine(new RegExp(`^entered busy ${id} 1$`))
  await first.waitForLine(/"event":"loop.wedged"/)
  await first.waitForLine(/"event":"worker.ended".*"reason":"lost"/)
  expect((await endOf(db.pool, id!)).state).toBe('done')
  expect((await attemptsOf(db.pool, id!)).map((a) => a.outcome)).toEqual(['lost', 'done'])
  expect(await wrongEffects(db.pool, [id!])).toEqual([])
  await expectSound(db.pool)
})

test('a runner whose slot is taken by another process ends with SLOT_TAKEN and changes nothing', async () => {
  const first = await startDaemon(db.url, { stages: ['held'], slot: 'held@1' })
  const [id] = await insertTasks(db.pool, 'held', [{}])
  await first.waitForLine(new RegExp(`^entered held ${id} 1$`))
  const second = await startDaemon(db.url, { stages: ['held'], slot: 'held@1' })
  await second.waitForLine(new RegExp(`^entered held ${id} 1$`))
  expect(await first.exit).toEqual({ code: 1, signal: null })
  expect(first.output()).toContain('[SLOT_TAKEN]')
  second.kill('SIGUSR2')
  expect((await endOf(db.pool, id!)).state).toBe('done')
  expect(await wrongEffects(db.pool, [id!])).toEqual([])
  expect(await leaseCount(db.pool)).toBe(0)
  await expectSound(db.pool)
})
