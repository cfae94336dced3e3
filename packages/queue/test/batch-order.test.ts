/**
 * The tasks of one batch come in the order in which they were submitted, wherever their rows lie on disk.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { addStage, addWorker, claim, insertTasks } from './scene.ts'
import { exchanged } from './worker-scene.ts'

let db: TestDatabase
beforeAll(async () => {
  db = await createTestDatabase()
})
afterAll(() => db.drop())

/** Two stages with 60 and 20 tasks of which the youngest of the first lie in front; false when the holes were not free. */
async function stagesWithHoles(worker: string, stages: readonly string[]): Promise<boolean> {
  await insertTasks(db.pool, stages[0]!, 60)
  await insertTasks(db.pool, stages[1]!, 20)
  await claim(db.pool, worker, stages[0]!, 30)
  await db.pool.query('vacuum leasehold.ready')
  const youngest = await insertTasks(db.pool, stages[0]!, 30)
  const { rows } = await db.pool.query<{ id: string }>(
    'select task_id::text as id from leasehold.ready where stage = $1 order by ctid limit 1',
    [stages[0]],
  )
  return youngest.includes(rows[0]!.id)
}

test('rows that were written into holes of the table do not come first; stages stay together', async () => {
  let stages: string[] = []
  let worker = ''
  // A vacuum leaves what a session beside it (autovacuum) may still see; then the same with others.
  await expect
    .poll(async () => {
      stages = [await addStage(db.pool), await addStage(db.pool)]
      worker = await addWorker(db.pool, stages, { concurrency: 1000 })
      return stagesWithHoles(worker, stages)
    })
    .toBe(true)
  // One that was tried before: its batch is read as it lies.
  await db.pool.query(
    `update leasehold.ready set failures = 1
    where task_id = (select max(task_id) from leasehold.ready where stage = $1)`,
    [stages[0]],
  )
  const { claimed } = await exchanged({ workerId: worker, stages, limits: [100, 100] }, db.pool)
  const of = (stage: string): number[] =>
    claimed.filter((task) => task.stage === stage).map((task) => Number(task.taskId))
  for (const stage of stages) expect(of(stage)).toEqual(of(stage).toSorted((a, b) => a - b))
  expect(claimed.map((task) => task.stage)).toEqual([
    ...Array(60).fill(stages[0]),
    ...Array(20).fill(stages[1]),
  ])
})

test('the tasks of one INSERT come in its order, also where there are more stages than tasks', async () => {
  const stages: string[] = []
  for (let n = 0; n < 40; n += 1) stages.push(await addStage(db.pool))
  await db.pool.query('analyze leasehold.stages')
  const worker = await addWorker(db.pool, stages.slice(0, 1), { concurrency: 1000 })
  const ids = await insertTasks(db.pool, stages[0]!, 5)
  const claimed: string[] = []
  for (const _ of ids)
    claimed.push(...(await claim(db.pool, worker, stages[0]!, 1)).map(({ taskId }) => taskId))
  expect(claimed).toEqual(ids)
})
