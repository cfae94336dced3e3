/**
 * `leasehold housekeeping` and `leasehold retention`, as an owner and as somebody who may only look.
 */
import type { PlannedRange, Retention } from '@leasehold/queue'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { leasehold, leaseholdJson } from './leasehold.ts'

let db: TestDatabase
let env: { DATABASE_URL: string }

beforeAll(async () => {
  db = await createTestDatabase()
  env = { DATABASE_URL: db.url }
})
afterAll(() => db.drop())

test('a setting is changed, a range is planned to go, a turn by hand drops it, and the list remembers', async () => {
  const settings = await leaseholdJson<Retention>(
    [
      'retention',
      'set',
      '--tasks',
      '2min',
      '--rotate-every',
      '1min',
      '--logs',
      'tasks',
      '--range-ids',
      'auto',
    ],
    env,
  )
  expect(settings).toMatchObject({
    keepTasksMs: 120_000,
    rotateEveryMs: 60_000,
    keepLogsMs: null,
    rangeIds: null,
  })
  await db.pool.query(`select leasehold.register_stage('s')`)
  await db.pool.query(`insert into leasehold.tasks (stage) values ('s'), ('s')`)
  await db.pool.query('select leasehold.cancel_task(task_id) from leasehold.ready')
  await db.advance(61_000)
  await leaseholdJson(['housekeeping', 'run', 'partitions'], env)
  await db.advance(121_000)

  const plan = await leaseholdJson<{ drop: { ranges: number }; ranges: PlannedRange[] }>(
    ['retention', 'plan'],
    env,
  )
  expect(plan.drop).toMatchObject({ ranges: 1 })
  expect(plan.ranges.map((range) => range.action)).toEqual(['drop', 'keep', 'keep', 'keep'])
  const run = await leasehold(['housekeeping', 'run', 'retention'], env)
  expect(run).toMatchObject({ code: 0, stdout: 'retention: rangesDropped 1, tablesDropped 5\n' })
  const { stdout } = await leasehold(['housekeeping'], env)
  expect(stdout).toMatch(/^retention .*done .*rangesDropped 1, tablesDropped 5$/m)
  expect(stdout).toMatch(/^vacuum .*never ran/m)
})

test('what cannot be is refused before anything changes, and a turn that is under way is left alone', async () => {
  expect(await leasehold(['retention', 'set', '--tasks', '1s'], env)).toMatchObject({
    code: 2,
    stderr: expect.stringContaining('retention keeps tasks at least 1 minute') as string,
  })
  expect((await leasehold(['retention', 'set', '--tasks', 'soon'], env)).code).toBe(2)
  expect((await leasehold(['retention', 'set'], env)).code).toBe(2)
  expect(await leasehold(['housekeeping', 'run', 'sweep'], env)).toMatchObject({
    code: 2,
    stderr: expect.stringContaining('partitions, depths') as string,
  })
  await db.pool.query(`select leasehold.begin_duty('tidy', '*/5 * * * *', '5 minutes', 'another')`)
  expect(await leasehold(['housekeeping', 'run', 'tidy'], env)).toMatchObject({ code: 4 })
})

test('an observer sees settings, plan and duties, and cannot change them', async ({ onTestFinished }) => {
  const role = `observer_of_${db.name}`
  await db.pool.query(`create role ${role} login password 'made up' in role leasehold_observer`)
  onTestFinished(async () => {
    await db.pool.query(`drop owned by ${role} cascade; drop role ${role}`)
  })
  const url = new URL(db.url)
  url.username = role
  url.password = 'made up'
  const observer = { DATABASE_URL: url.href }
  for (const args of [['retention'], ['retention', 'plan'], ['housekeeping']]) {
    expect(await leasehold(args, observer)).toMatchObject({ code: 0, stderr: '' })
  }
  for (const args of [
    ['retention', 'set', '--tasks', '9d'],
    ['housekeeping', 'run', 'retention'],
  ]) {
    expect(await leasehold(args, observer)).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('permission denied') as string,
    })
  }
})
