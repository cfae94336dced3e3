/**
 * `leasehold drain`: whom it asks, what it waits for, and what it says when that does not come.
 *
 * The command runs in this process, workers are rows: real ones drain in daemons/runner/test/deploys.test.ts.
 */
import { Readable } from 'node:stream'
import { afterAll, beforeEach, afterEach, expect, test, beforeAll } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { run } from '../src/program.ts'

let db: TestDatabase
beforeAll(async () => {
  db = await createTestDatabase()
  for (const stage of ['cut', 'sew']) await db.pool.query('select leasehold.register_stage($1)', [stage])
})
afterAll(() => db.drop())

let over: AbortController
let managed: Promise<void>
const started = (slot: string): Promise<unknown> =>
  db.pool.query(
    "select leasehold.register_worker($1, array[split_part($1, '@', 1)], '1 hour', '10 minutes', 'crane.example')",
    [slot],
  )
const working = ['cut@1', 'cut@2', 'sew@1']
const restarts = async (): Promise<unknown[]> => {
  const { rows } = await db.pool.query(
    'select slot, restarts from leasehold.workers where ended_at is null order by slot',
  )
  return rows.map(({ slot, restarts: n }) => [slot, n])
}

/** What workers and a service manager do: who is asked to drain leaves, and is started again when it is to be. */
async function manage(again: boolean): Promise<void> {
  while (!over.signal.aborted) {
    const { rows } = await db.pool.query<{ id: string; slot: string }>(
      'select id, slot from leasehold.workers where ended_at is null and drain_asked order by slot',
    )
    for (const { id, slot } of rows) {
      await db.pool.query('select leasehold.leave($1)', [id])
      if (again) await started(slot)
    }
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

beforeEach(async () => {
  await db.pool.query('delete from leasehold.workers')
  for (const slot of working) await started(slot)
  over = new AbortController()
  managed = Promise.resolve()
})
afterEach(async () => {
  over.abort()
  await managed
})

async function leasehold(...args: string[]): Promise<{ code: number; said: string }> {
  const said: string[] = []
  const write = (text: string): void => void said.push(text)
  const terminal = {
    isTty: false,
    columns: 200,
    out: write,
    note: write,
    paint: (_: unknown, text: string) => text,
  }
  const code = await run(args, {
    environment: { DATABASE_URL: db.url },
    terminal,
    stdin: Readable.from([]),
    exitCode: 0,
  })
  return { code, said: said.join('\n') }
}

const asked = async (): Promise<string[]> => {
  const { rows } = await db.pool.query('select slot from leasehold.workers where drain_asked order by slot')
  return rows.map(({ slot }) => slot)
}

test.each([
  ['a slot', ['cut@2'], ['cut@2']],
  ['a name', ['cut'], ['cut@1', 'cut@2']],
  ['a stage', ['--stage', 'sew'], ['sew@1']],
  ['all', ['--all'], working],
])('%s is asked to drain, nobody else', async (_, args, expected) => {
  expect((await leasehold('drain', ...args)).code).toBe(0)
  expect(await asked()).toEqual(expected)
})

test('with --wait it comes back when they have left', async () => {
  managed = manage(false)
  const { code, said } = await leasehold('drain', 'cut', '--wait')
  expect(code).toBe(0)
  expect(said).toBe('cut@1 has left\ncut@2 has left')
  expect(await restarts()).toEqual([['sew@1', 0]])
})

test('with --rolling each was started again before the next is asked', async () => {
  managed = manage(true)
  const { code, said } = await leasehold('drain', '--all', '--rolling', '--json')
  expect(code).toBe(0)
  expect(JSON.parse(said)).toMatchObject(working.map((slot) => ({ slot, result: 'restarted' })))
  expect(await restarts()).toEqual(working.map((slot) => [slot, 1]))
})

test('a slot that nobody starts again stops a rolling drain: the others go on working', async () => {
  managed = manage(false)
  const { code, said } = await leasehold('drain', '--all', '--rolling', '--timeout', '5')
  expect(code).toBe(1)
  expect(said).toMatch(/cut@1 has left, but its slot was not started again[^]*--timeout/)
  expect(await restarts()).toEqual([
    ['cut@2', 0],
    ['sew@1', 0],
  ])
})

test('it says what it cannot do: nobody of that name, nobody at all, too long, no word who', async () => {
  const unknown = await leasehold('drain', 'cut', 'nobody@1')
  expect(unknown.code).toBe(3)
  expect(unknown.said).toMatch(/No live worker has the slot 'nobody@1'[^]*leasehold workers/)
  expect(await asked()).toEqual([])
  expect((await leasehold('drain', '--stage', 'nothing')).code).toBe(4)
  expect((await leasehold('drain')).code).toBe(2)
  expect((await leasehold('drain', 'cut', '--all')).code).toBe(2)
  const long = await leasehold('drain', 'cut@1', '--wait', '--timeout', '1')
  expect(long.code).toBe(1)
  expect(long.said).toMatch(/After 1 s: cut@1 has not left/)
})

test('a worker that died instead of leaving is said to have died, and the exit code is 1', async () => {
  const dying = leasehold('drain', 'cut', '--wait')
  await expect.poll(asked, { interval: 10 }).toEqual(['cut@1', 'cut@2'])
  await db.pool.query("select leasehold.leave(id) from leasehold.workers where slot = 'cut@1'")
  await started('cut@2') // its process was killed, and its slot taken by the next one
  const { code, said } = await dying
  expect(code).toBe(1)
  expect(said.split('\n').toSorted()).toEqual([
    'cut@1 has left',
    'cut@2 died before it had left; what it ran was interrupted and is tried again',
  ])
})

test('a successor that was asked to drain itself is none: a rolling drain goes on waiting', async () => {
  const rolling = leasehold('drain', 'cut@1', '--rolling', '--timeout', '5')
  await expect.poll(asked, { interval: 10 }).toEqual(['cut@1'])
  // Killed and started again at once, so that the asking met the new one too.
  const session = await db.client()
  await session.query('begin')
  await session.query(
    "select leasehold.register_worker('cut@1', array['cut'], '1 hour', '10 minutes', 'crane.example')",
  )
  await session.query("select leasehold.drain_slot('cut@1')")
  await session.query('commit')
  const { code, said } = await rolling
  expect([code, said]).toEqual([1, expect.stringContaining('cut@1 died, but its slot was not started again')])
})
