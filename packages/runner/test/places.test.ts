/**
 * Who waits for a place gets it before whoever comes at the moment it becomes free.
 */
import type { ClaimedTask } from '@leasehold/queue'
import { expect, test } from 'vitest'
import { z } from 'zod'
import { Attempts, type AttemptsHost } from '../src/attempts.ts'
import { Capacity } from '../src/capacity.ts'
import { Ledger } from '../src/ledger.ts'

const task = (taskId: string): ClaimedTask => ({
  taskId,
  fence: '1',
  stage: 'one',
  attempt: 1,
  payload: {},
  extra: null,
})

test('a place that became free in this very turn is for those who waited for it', async () => {
  const gate = Promise.withResolvers<void>()
  const order: string[] = []
  const stage = {
    name: 'one',
    payload: z.object({}),
    run({ task: { id } }: { task: { id: string } }): Promise<void> {
      order.push(id)
      return id === '1' ? gate.promise : Promise.resolve()
    },
  }
  const host = { settings: {}, counts: { claimed: 0, settled: 0, stuck: 0 } } as unknown as AttemptsHost
  const capacity = new Capacity({ stages: [stage], concurrency: 1, stageConcurrency: 1 })
  const attempts = new Attempts(host, new Ledger(), capacity, { wake() {}, waited() {} })
  for (const id of ['1', '2', '3']) attempts.start(task(id), performance.now(), false)
  expect(order).toEqual(['1'])
  // Later in the same turn than the end of the first handler, earlier than the start of the next one.
  const newcomer = gate.promise.then(() => attempts.start(task('4'), performance.now(), false))
  gate.resolve()
  await newcomer
  await new Promise((resolve) => setImmediate(resolve))
  expect(order).toEqual(['1', '2', '3', '4'])
  expect(capacity.running).toBe(0)
  attempts.close()
})
