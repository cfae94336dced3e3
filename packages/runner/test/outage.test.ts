/**
 * Runners whose database goes away: stopped, restarted, cut off, frozen, locked. Nothing exits, nothing floods the log,
 * nothing is lost, and what was finished meanwhile is settled afterwards.
 */
import { rm } from 'node:fs/promises'
import { type EmbeddedServer, openPool, startEmbedded } from '@leasehold/postgres'
import { defineStage } from '@leasehold/queue'
import { inject, afterEach, beforeEach, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { copyCluster } from '../../../test/harness/cluster.ts'
import { makeServerFolder } from '../../../test/harness/server-folder.ts'
import type { TestDatabase } from '../../../test/harness/database.ts'
import { Proxy } from './proxy.ts'
import {
  attemptsOf,
  createScene,
  effectsTable,
  endOf,
  endsOf,
  eventually,
  expectSound,
  insertTasks,
  spawnDaemon,
  startDaemon,
  startTestRunner,
  wrongEffects,
} from './scene.ts'

const echo = defineStage({ name: 'echo', payload: z.object({}), concurrency: 5, async run() {} })
const outageEvents = ['exchange.failed', 'database.back', 'beat.failed', 'beat.back', 'duties.failed']

/** No event of an outage was said more often than once in ten seconds. */
function expectNoFlood(output: string, lastedMs: number): void {
  for (const event of outageEvents) {
    const said = output.split('\n').filter((line) => line.includes(`"event":"${event}"`))
    expect(said.length, said.join('\n')).toBeLessThanOrEqual(1 + lastedMs / 10_000)
  }
}

describe('a server that is stopped and started', () => {
  let dataDir: string
  let server: EmbeddedServer
  beforeEach(async () => {
    dataDir = await makeServerFolder('leasehold-outage-')
    await copyCluster(dataDir, 'migrated')
    server = await start()
    await withPool((pool) => pool.query(effectsTable))
  })
  afterEach(async () => {
    await server.stop()
    await rm(dataDir, { recursive: true, force: true })
  })

  function start(): Promise<EmbeddedServer> {
    const { binDir } = inject('testServer')
    return startEmbedded({
      dataDir,
      ephemeral: true,
      settings: { shared_buffers: '32MB', log_min_messages: 'fatal' },
      ...(binDir === undefined ? {} : { binDir }),
    })
  }

  async function withPool<T>(work: (pool: ReturnType<typeof openPool>) => Promise<T>): Promise<T> {
    const pool = openPool({ connectionString: server.url, applicationName: 'test', max: 2 })
    try {
      return await work(pool)
    } finally {
      await pool.end()
    }
  }

  test('what is finished during the outage is settled after it, and the runner works on, without a log flood', async () => {
    const daemon = await startDaemon(server.url, { stages: ['offline', 'quick'], slot: 'offline@1' })
    const [id] = await withPool((pool) => insertTasks(pool, 'offline', [{}]))
    await daemon.waitForLine(new RegExp(`^entered offline ${id} 1$`))
    const begunAt = performance.now()
    await server.stop()
    daemon.kill('SIGUSR2')
    await daemon.waitForLine(new RegExp(`^finished ${id}$`))
    await daemon.waitForLine(/"event":"exchange.failed"/)
    await daemon.waitForLine(/"event":"beat.failed"/)
    server = await start()
    await daemon.waitForLine(/"event":"database.back"/)
    await withPool(async (pool) => {
      expect(await endOf(pool, id!)).toMatchObject({ state: 'done', result: { pid: daemon.pid } })
      expect((await attemptsOf(pool, id!)).map((a) => a.outcome)).toEqual(['done'])
      const ids = await insertTasks(pool, 'quick', [{}, {}, {}])
      await endsOf(pool, ids)
      expect(await wrongEffects(pool, ids)).toEqual([])
      await expectSound(pool)
    })
    expectNoFlood(daemon.output(), performance.now() - begunAt)
    daemon.kill('SIGTERM')
    expect(await daemon.exit).toEqual({ code: 0, signal: null })
  })

  test('after an outage longer than the TTL nothing is taken from a worker that beats within the grace', async () => {
    const env = { LEASEHOLD_LEASE_TTL_MS: '12000' }
    const daemon = await startDaemon(server.url, { stages: ['offline'], slot: 'offline@1', env })
    const other = await startDaemon(server.url, { stages: ['held'], slot: 'held@1', env })
    const [id] = await withPool((pool) => insertTasks(pool, 'offline', [{}]))
    await daemon.waitForLine(new RegExp(`^entered offline ${id} 1$`))
    const expiresAt = await withPool(async (pool) => {
      await pool.query('alter function leasehold.settle_endings(uuid, jsonb) rename to held_back') // the answer must wait
      daemon.kill('SIGUSR2')
      await daemon.waitForLine(/"event":"exchange.failed"/)
      const { rows } = await pool.query<{ at: Date }>('select max(expires_at) as at from leasehold.workers')
      return rows[0]!.at.getTime()
    })
    await server.stop()
    await eventually(async () => Date.now() > expiresAt + 500)
    server = await start()
    await withPool(async (pool) => {
      await pool.query('alter function leasehold.held_back(uuid, jsonb) rename to settle_endings')
      expect((await endOf(pool, id!)).state).toBe('done')
      expect((await attemptsOf(pool, id!)).map((a) => a.outcome)).toEqual(['done'])
      const { rows } = await pool.query("select slot from leasehold.workers where end_reason = 'lost'")
      expect(rows).toEqual([])
      await expectSound(pool)
    })
    expect(other.output()).not.toContain('worker.released')
  })

  test('SIGTERM while the database is away ends the process in order', async () => {
    const daemon = await startDaemon(server.url, { stages: ['offline'], slot: 'offline@1' })
    await server.stop()
    await daemon.waitForLine(/"event":"exchange.failed"/)
    daemon.kill('SIGTERM')
    expect(await daemon.exit).toEqual({ code: 0, signal: null })
    const waiting = await startWaiting()
    waiting.kill('SIGTERM')
    expect(await waiting.exit).toEqual({ code: 0, signal: null })
  })

  test('a runner that is started while the database is away works as soon as it is there', async () => {
    await server.stop()
    const daemon = await startWaiting()
    server = await start()
    await daemon.waitForLine(/"event":"slot.taken"/)
    const [id] = await withPool((pool) => insertTasks(pool, 'quick', [{}]))
    await daemon.waitForLine(new RegExp(`^written ${id}$`))
  })

  async function startWaiting(): Promise<ReturnType<typeof spawnDaemon>> {
    const daemon = spawnDaemon(server.url, { stages: ['quick'], slot: 'quick@1' })
    await daemon.waitForLine(/"event":"start.waiting"/)
    return daemon
  }
})

describe('connections that are lost', () => {
  let db: TestDatabase
  beforeEach(async () => {
    db = await createScene()
  })
  afterEach(() => db.drop())

  test('while all their backends are terminated at random, two runners settle every task exactly once', async () => {
    const daemons = [
      await startDaemon(db.url, { stages: ['quick'], slot: 'quick@1' }),
      await startDaemon(db.url, { stages: ['quick'], slot: 'quick@2' }),
    ]
    // A task may lose its handler's connection again and again, by chance.
    await db.pool.query("select leasehold.register_stage('quick', p_max_attempts => 1000)")
    const begunAt = performance.now()
    const ids: string[] = []
    for (let round = 0; round < 40; round++) {
      ids.push(
        ...(await insertTasks(
          db.pool,
          'quick',
          Array.from({ length: 25 }, () => ({ ms: 2 })),
        )),
      )
      await db.pool.query(`select pg_terminate_backend(pid) from (select pid from pg_stat_activity
        where datname = current_database() and application_name like 'leasehold %' order by random() limit 2) as victims`)
    }
    const tasks = await endsOf(db.pool, ids)
    // A handler's own connection may be among the victims: that fails an attempt, and the next one does it.
    const undone = tasks.filter((task) => task.state !== 'done')
    expect(undone.map((task) => task.lastError)).toEqual([])
    expect(await wrongEffects(db.pool, ids)).toEqual([])
    for (const daemon of daemons) {
      expectNoFlood(daemon.output(), performance.now() - begunAt)
      daemon.kill('SIGTERM')
      expect(await daemon.exit).toEqual({ code: 0, signal: null })
    }
    expect(daemons.map((daemon) => daemon.output()).join('')).toContain('"event":"exchange.failed"')
    const { rows } = await db.pool.query('select * from leasehold.leases')
    expect(rows).toEqual([])
    await expectSound(db.pool)
  })

  test('a connection that answers nothing any more is given up and replaced', async () => {
    const proxy = await Proxy.to(db.url)
    const runner = await startTestRunner(db, {
      stages: [echo],
      connectionString: proxy.url,
      listen: false,
      wedgeLimitMs: 3000, // no wait for the database is longer than a third of it
    })
    proxy.swallowAnswers(false)
    const before = proxy.accepted
    const ids = await insertTasks(db.pool, 'echo', [{}, {}])
    await endsOf(db.pool, ids)
    expect(proxy.accepted).toBeGreaterThan(before)
    await runner.drain()
    await proxy.close()
    await expectSound(db.pool)
  })

  test('a table that is locked delays settlements and claims, but no beat', async () => {
    const gate = Promise.withResolvers<void>()
    const stage = defineStage({
      name: 'gated',
      payload: z.object({}),
      concurrency: 5,
      run: () => gate.promise,
    })
    const runner = await startTestRunner(db, { stages: [stage] })
    const ids = await insertTasks(db.pool, 'gated', [{}, {}])
    await eventually(async () => runner.counts.held === 2)
    const locker = await db.client()
    await locker.query('begin')
    await locker.query('lock table leasehold.leases in access exclusive mode')
    gate.resolve()
    for (let beat = 0; beat < 3; beat++) {
      const { rows } = await locker.query<{ at: Date }>('select leasehold.clock() as at')
      await eventually(async () => {
        const { rowCount } = await db.pool.query('select from leasehold.workers where beat_at > $1', [
          rows[0]!.at,
        ])
        return rowCount === 1
      })
    }
    await locker.query('commit')
    expect((await endsOf(db.pool, ids)).map((task) => task.state)).toEqual(['done', 'done'])
    expect((await attemptsOf(db.pool, ids[0]!)).length).toBe(1)
    await runner.drain()
    await expectSound(db.pool)
  })

  test('a worker whose beats are not acknowledged gives its handlers up before its lease is over', async () => {
    const told = Promise.withResolvers<{ why: unknown; at: number }>()
    const entered = Promise.withResolvers<void>()
    const stage = defineStage({
      name: 'listening',
      payload: z.object({}),
      concurrency: 1,
      async run(ctx) {
        entered.resolve()
        await new Promise((resolve) => ctx.signal.addEventListener('abort', resolve))
        told.resolve({ why: (ctx.signal.reason as { why: string }).why, at: performance.now() })
      },
    })
    const runner = await startTestRunner(db, { stages: [stage], leaseTtlMs: 10_000 })
    const [id] = await insertTasks(db.pool, 'listening', [{}])
    await entered.promise
    const locker = await db.client()
    await locker.query('begin')
    await locker.query('select from leasehold.workers for update') // beats and exchanges wait for this
    const { rows } = await locker.query<{ left: number }>(
      'select extract(epoch from expires_at - leasehold.clock())::float8 * 1000 as left from leasehold.workers',
    )
    const overAt = performance.now() + rows[0]!.left
    const { why, at } = await told.promise
    expect(why).toBe('lease-lost')
    expect(at).toBeLessThan(overAt)
    await locker.query('commit')
    await eventually(async () => runner.counts.claimed === 2) // given back, and taken again
    expect((await attemptsOf(db.pool, id!)).map((a) => a.outcome)).toEqual(['released'])
    await runner.stopNow()
    await expectSound(db.pool)
  })
})
