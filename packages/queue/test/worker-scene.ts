/**
 * The scene of the tests of workers' verbs: one database for a file; for each test a stage and a live worker of its own,
 * and afterwards the question whether anything is wrong.
 *
 * `db`, `stage` and `worker` are live bindings: `useWorkers` sets them before each test.
 */
import {
  type ClaimedTask,
  type ExchangeAnswer,
  type Db,
  type ExchangeRequest,
  exchange,
  leave,
  registerWorker,
} from '@leasehold/queue'
import { afterAll, beforeAll, beforeEach, expect } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { addStage, problems } from './scene.ts'

export let database: TestDatabase
export let db: Db
export let stage: string
export let worker: string
let slots = 0

/** To be called once, at the top of a test file. */
export function useWorkers(): void {
  beforeAll(async () => {
    database = await createTestDatabase()
    db = database.pool
  })
  afterAll(() => database.drop())
  beforeEach(async () => {
    stage = await addStage(db)
    worker = await register([stage])
    return async () => {
      expect(await problems(db)).toEqual([])
      await leave(db, worker, 'test over')
    }
  })
}

/** A live worker for these stages; its id. */
export async function register(stages: string[], leaseTtlMs = 3_600_000): Promise<string> {
  const { workerId } = await registerWorker(db, {
    slot: `slot-${++slots}`,
    stages,
    leaseTtlMs,
    beatIntervalMs: Math.floor(leaseTtlMs / 3),
    host: 'host.test',
    pid: 1,
    version: 'test',
    concurrency: 10,
  })
  return workerId
}

/** An exchange that does only what is named. */
export function exchanged(request: Partial<ExchangeRequest>, on: Db = db): Promise<ExchangeAnswer> {
  return exchange(on, {
    workerId: worker,
    doneIds: [],
    doneFences: [],
    endings: null,
    children: null,
    notes: null,
    stages: null,
    limits: null,
    runId: null,
    promote: false,
    wakeMs: null,
    ...request,
  })
}

export async function claimed(n: number, more: Partial<ExchangeRequest> = {}): Promise<ClaimedTask[]> {
  return (await exchanged({ stages: [stage], limits: [n], ...more })).claimed
}
