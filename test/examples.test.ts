/**
 * The example manifests of docs/examples, as their readers would use them: applied to a database and run.
 */
import { randomUUID } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { tick } from '@leasehold/daemon-scheduler'
import { leasehold } from '../packages/cli/test/leasehold.ts'
import { type TestDatabase, createTestDatabase } from './harness/database.ts'
import { spawnProcess } from './harness/processes.ts'

const example = (name: string): string =>
  fileURLToPath(new URL(`../docs/examples/${name}.config.ts`, import.meta.url))

let db: TestDatabase
beforeAll(async () => {
  db = await createTestDatabase()
})
afterAll(() => db.drop())

async function clock(): Promise<Date> {
  const { rows } = await db.pool.query<{ at: Date }>('select leasehold.clock() as at')
  return rows[0]!.at
}

const halfHourMs = 1_800_000
const dayMs = 86_400_000

test('the newsletter: in a week every step fires once a day from Tuesday to Saturday, with two schedulers at once', async () => {
  const days = ((8 - (await clock()).getUTCDay()) % 7 || 7) * dayMs
  await db.advance(days - ((await clock()).getTime() % dayMs))
  const monday = await clock()
  expect(monday.getUTCDay()).toBe(1)
  const applied = await leasehold(['apply', example('newsletter')], { DATABASE_URL: db.url })
  expect(applied.code, applied.stderr).toBe(0)

  const schedulers = [1, 2].map((pid) => ({
    id: randomUUID(),
    host: `news-${pid}.example`,
    pid,
    version: 'test',
    pollMs: 5_000,
  }))
  for (let passed = 0; passed < 7 * dayMs; passed += halfHourMs) {
    await db.advance(halfHourMs)
    let turns = await Promise.all(schedulers.map((one) => tick(db.pool, one)))
    while (turns.some(({ due }) => due > 0))
      turns = await Promise.all(schedulers.map((one) => tick(db.pool, one)))
  }

  const times = ['02:00', '02:15', '02:25', '02:30', '03:00', '09:30', '10:00']
  const names = [
    'pre-filter',
    'slot-selection',
    'decoration',
    'images',
    'html-compile',
    'social-sync',
    'send',
  ]
  const midnight = monday.getTime() - (monday.getTime() % dayMs)
  const expected = [1, 2, 3, 4, 5].flatMap((day) =>
    times.map((time, n) => {
      const date = new Date(midnight + day * dayMs).toISOString().slice(0, 10)
      return `${date} ${time} ${names[n]}`
    }),
  )
  const { rows } = await db.pool.query<{ line: string }>(
    `select to_char((t.meta ->> 'slot')::timestamptz at time zone 'UTC', 'YYYY-MM-DD HH24:MI') || ' ' || t.stage as line
    from leasehold.tasks t order by 1`,
  )
  expect(rows.map(({ line }) => line)).toEqual(expected.toSorted())
})

test('an agent’s slot: it says how it lives, works on a session, and leaves in order', async () => {
  const config = example('agent-slots')
  const slot = spawnProcess({
    script: 'daemons/runner/src/main.ts',
    args: ['--config', config, '--slot', 'slot@1'],
    env: { DATABASE_URL: db.url },
  })
  await slot.waitForLine(/"event":"slot.taken"/)
  const { rows: lives } = await db.pool.query(
    "select status, restarts, extract(epoch from expires_at - last_seen)::int as ttl from leasehold.worker_health where slot = 'slot@1'",
  )
  expect(lives).toEqual([{ status: 'idle', restarts: 0, ttl: 90 }])
  await db.pool.query(
    `insert into leasehold.tasks (stage, payload) values ('slot', '{"items": ["read", "write"]}')`,
  )
  const outcome = async (): Promise<unknown> =>
    (await db.pool.query('select outcome from leasehold.attempts where final')).rows[0]?.outcome
  await expect.poll(outcome).toBe('done')
  slot.kill('SIGTERM')
  expect(await slot.exit).toEqual({ code: 0, signal: null })
  const { rows } = await db.pool.query("select end_reason from leasehold.workers where slot = 'slot@1'")
  expect(rows).toEqual([{ end_reason: 'graceful-shutdown' }])
})
