/**
 * Conditions of the work itself: stages whose tasks end dead, stages behind their limit, schedules whose task died.
 */
import { putAlertPolicy } from '@leasehold/queue'
import { beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { alerts, beat, claim, stage, submit, watch, work } from './watching.ts'

const minute = 60_000

let db: TestDatabase
beforeEach(async ({ onTestFinished }) => {
  db = await createTestDatabase()
  onTestFinished(() => db.drop())
  await stage(db, 's')
})

/** A task of stage s that ends dead; answers its id. */
async function die(worker: string): Promise<string> {
  const { rows } = await db.pool.query<{ id: string }>(
    `insert into leasehold.tasks (stage, title, max_attempts) values ('s', 'nightly report', 1) returning id::text`,
  )
  await claim(db, worker, 's')
  await db.pool.query(
    `select leasehold.settle($1, l.task_id, l.fence, 'fail', error => '{"message": "the disk is full"}')
    from leasehold.leases l where l.task_id = $2`,
    [worker, rows[0]!.id],
  )
  return rows[0]!.id
}

test('tasks that end dead are one incident of their stage, told in the digest, and over after an hour without', async () => {
  const monitor = await watch(db, null)
  const worker = await work(db, 'w', ['s'], { ttl: 81_000_000 })
  const task = await die(worker)
  await die(worker)
  const { opened, alertIds } = await monitor.tick()
  expect(opened).toMatchObject([
    { kind: 'tasks_failing', subject: 's', details: { dead: 2, last: { error: 'the disk is full' } } },
  ])
  expect(alertIds).toEqual([])
  expect(Number(task)).toBeGreaterThan(0)

  await putAlertPolicy(db.pool, { rules: { tasks_failing: { tell: 'now' } } })
  await monitor.tick()
  const [alert] = await alerts(db)
  expect(alert!.subject).toBe('Leasehold: stage s has tasks that ended dead')
  expect(alert!.body).toContain('npx leasehold tasks --state dead --stage s')
  await db.advance(59 * minute)
  expect((await monitor.tick()).resolved).toEqual([])
  await db.advance(2 * minute)
  expect((await monitor.tick()).resolved).toMatchObject([{ kind: 'tasks_failing' }])
})

test('a stage is behind when its oldest ready task is older than its limit, and not while it is paused', async () => {
  await putAlertPolicy(db.pool, { backlogMs: { s: 30 * minute } })
  const monitor = await watch(db, null)
  const worker = await work(db, 'w', ['s'], { ttl: 81_000_000 })
  await submit(db, 's')
  await db.advance(29 * minute)
  await beat(db, worker)
  expect((await monitor.tick()).opened).toEqual([])
  await db.advance(2 * minute)
  expect((await monitor.tick()).opened).toMatchObject([{ kind: 'backlog_old', subject: 's' }])
  expect((await alerts(db))[0]!.body).toContain('limit        30 min 0 s')
  await claim(db, worker, 's')
  expect((await monitor.tick()).resolved).toMatchObject([{ kind: 'backlog_old' }])

  await submit(db, 's')
  await db.pool.query(`select leasehold.pause_stage('s')`)
  await db.advance(31 * minute)
  expect((await monitor.tick()).opened).toEqual([])
})

/** The schedules among these that fail. */
function failing(found: readonly { readonly kind: string; readonly subject: string }[]): string[] {
  return found.filter(({ kind }) => kind === 'schedule_failing').map(({ subject }) => subject)
}

test('a schedule whose last task died is told at once, and over when the next one is done', async () => {
  await db.pool.query(
    `insert into leasehold.schedules (name, stage, cron, zone) values ('nightly', 's', '0 6 * * *', 'UTC')`,
  )
  const fire = (task: string): Promise<unknown> =>
    db.pool.query(
      `insert into leasehold.schedule_firings (schedule, slot, outcome, task_id, recorded_at, recorded_by)
      values ('nightly', leasehold.clock(), 'fired', $1, leasehold.clock(), 'scheduler')`,
      [task],
    )
  const monitor = await watch(db, null)
  const worker = await work(db, 'w', ['s'], { ttl: 81_000_000 })
  await fire(await die(worker))
  expect(failing((await monitor.tick()).opened)).toEqual(['nightly'])
  expect((await alerts(db))[0]!.subject).toContain('the last task died of schedule nightly')

  await fire(await submit(db, 's'))
  expect(failing((await monitor.tick()).resolved)).toEqual([])
  await claim(db, worker, 's')
  await db.pool.query(
    `select leasehold.settle($1, l.task_id, l.fence, 'done') from leasehold.leases l where l.worker_id = $1`,
    [worker],
  )
  expect(failing((await monitor.tick()).resolved)).toEqual(['nightly'])
})
