/**
 * What a worker leaves behind: one exchange settles, notes, submits children and claims; effects and settlement commit
 * together, or not at all.
 *
 * Who may write under which lease is fencing.test.ts; the loop around these verbs is @leasehold/runner.
 */
import { getTask, readCheckpoint, settle, submit, submitMany, writeNotes } from '@leasehold/queue'
import { beforeAll, expect, test } from 'vitest'
import { outcomesOf, stateOf } from './scene.ts'
import { claimed, database, db, exchanged, stage, worker, useWorkers } from './worker-scene.ts'

useWorkers()
beforeAll(() => db.query('create table public.effects (task_id bigint not null)'))

test('one exchange settles what ended, keeps its notes and children, and claims what is next', async () => {
  const ids = await submitMany(
    db,
    stage,
    [1, 2, 3, 4].map((n) => ({ payload: { n }, runId: 'run' })),
  )
  const [a, b, c] = (await claimed(3)).toSorted((x, y) => Number(x.taskId) - Number(y.taskId))
  const at = { task_id: b!.taskId, fence: b!.fence }
  const next = await exchanged({
    doneIds: [a!.taskId],
    doneFences: [a!.fence],
    endings: JSON.stringify([
      { ...at, outcome: 'done', result: { sum: 1 } },
      {
        task_id: c!.taskId,
        fence: c!.fence,
        outcome: 'fail',
        error: { code: 'e', message: 'm' },
        retryable: false,
      },
    ]),
    children: JSON.stringify([
      { parent_id: b!.taskId, stage, payload: { child: 1 } },
      { parent_id: b!.taskId, stage, payload: { child: 2 }, run_id: 'other' },
      { parent_id: ids[3], stage, payload: { stray: true } },
    ]),
    notes: JSON.stringify([
      { ...at, kind: 'log', level: 'info', message: 'last words', at_ms_ago: 1000 },
      { ...at, kind: 'progress', fraction: 0.5, message: 'half' },
      { ...at, kind: 'progress', fraction: 1, message: 'whole' },
    ]),
    stages: [stage],
    limits: [10],
  })
  expect(next.receipt).toEqual({ worker: 'live' })
  const payloads = next.claimed.map((row) => row.payload as object)
  expect(payloads).toEqual(expect.arrayContaining([{ n: 4 }, { child: 1 }, { child: 2 }]))
  expect(payloads).toHaveLength(3)
  const runs = next.claimed.map((row) => String(row.extra?.run_id))
  expect(runs.toSorted()).toEqual(['other', 'run', 'run'])
  expect(await getTask(db, b!.taskId)).toMatchObject({
    state: 'done',
    result: { sum: 1 },
    progress: 1,
    progressMessage: 'whole',
  })
  const states = await Promise.all([a, c].map((row) => stateOf(db, row!.taskId)))
  expect(states).toEqual(['done', 'dead'])
})

test('children of a refused settlement are not submitted', async () => {
  const id = await submit(db, stage, {})
  const [row] = await claimed(1)
  await db.query('select leasehold.cancel_task($1)', [id])
  const { receipt } = await exchanged({
    endings: JSON.stringify([{ task_id: id, fence: row!.fence, outcome: 'done' }]),
    children: JSON.stringify([{ parent_id: id, stage }]),
  })
  expect(receipt).toMatchObject({ refused: [id], revoked: [{ task_id: id, reason: 'cancelled' }] })
  expect(await claimed(5)).toEqual([])
})

test('a child that cannot be submitted takes the whole exchange back', async () => {
  const id = await submit(db, stage, {})
  const [row] = await claimed(1)
  const ending = JSON.stringify([{ task_id: id, fence: row!.fence, outcome: 'done' }])
  const children = JSON.stringify([{ parent_id: id, stage: 'no_such_stage' }])
  await expect(exchanged({ endings: ending, children })).rejects.toMatchObject({ code: 'LH001' })
  expect(await stateOf(db, id)).toBe('running')
})

test('a transaction that has locked its worker and is left open is ended by the server, unless a time was set', async () => {
  const session = await database.client()
  const limit = async () =>
    (
      await session.query<{ ms: string }>(
        "select current_setting('idle_in_transaction_session_timeout') as ms",
      )
    ).rows[0]!.ms
  for (const write of [
    (lease: string) => settle(session, worker, `[{${lease},"outcome":"done"}]`, null),
    (lease: string) => writeNotes(session, worker, `[{${lease},"kind":"progress","fraction":1}]`),
  ]) {
    await submit(db, stage, {})
    const [row] = await claimed(1)
    const lease = `"task_id":"${row!.taskId}","fence":"${row!.fence}"`
    await session.query('begin')
    expect(await write(lease)).toBe(true)
    expect(await limit()).toBe('1min')
    await session.query('rollback')
    expect(await limit()).toBe('0')
    for (const own of ['50s', '5min']) {
      await session.query(`begin; set local idle_in_transaction_session_timeout = '${own}'`)
      expect(await write(lease)).toBe(true)
      expect(await limit()).toBe(own)
      await session.query('rollback')
    }
  }
})

test('effects and settlement commit together, or not at all', async () => {
  const id = await submit(db, stage, {})
  const [row] = await claimed(1)
  const ending = JSON.stringify([{ task_id: id, fence: row!.fence, outcome: 'done' }])
  const session = await database.client()
  for (const end of ['rollback', 'commit']) {
    await session.query('begin')
    await session.query('insert into public.effects values ($1)', [id])
    expect(await settle(session, worker, ending, null)).toBe(true)
    await session.query(end)
  }
  await session.query('begin')
  await session.query('insert into public.effects values ($1)', [id])
  expect(await settle(session, worker, ending, null)).toBe(false)
  await session.query('rollback')
  const { rowCount } = await db.query('select from public.effects where task_id = $1', [id])
  expect(rowCount).toBe(1)
  expect(await outcomesOf(db, id)).toEqual(['done'])
})

test.each(['repeatable read', 'serializable'])(
  'an exchange at %s is refused and changes nothing',
  async (isolation) => {
    const id = await submit(db, stage, {})
    const session = await database.client()
    await session.query(`begin isolation level ${isolation}`)
    await expect(exchanged({ stages: [stage], limits: [1] }, session)).rejects.toMatchObject({
      code: 'LH004',
    })
    await session.query('rollback')
    expect(await stateOf(db, id)).toBe('ready')
  },
)

test('checkpoints are kept once, through attempts, and null is a value', async () => {
  const id = await submit(db, stage, {})
  const [row] = await claimed(1)
  const note = (name: string, value: unknown): string =>
    JSON.stringify([{ task_id: id, fence: row!.fence, kind: 'checkpoint', name, value }])
  expect(await readCheckpoint(db, id, 'step')).toBeNull()
  expect(await writeNotes(db, worker, note('step', { a: 1 }))).toBe(true)
  expect(await writeNotes(db, worker, note('step', { a: 2 }))).toBe(true)
  expect(await writeNotes(db, worker, note('nothing', null))).toBe(true)
  expect(JSON.parse((await readCheckpoint(db, id, 'step'))!)).toEqual({ a: 1 })
  expect(await readCheckpoint(db, id, 'nothing')).toBe('null')
})
