/**
 * What decides whether there is room for tasks that are claimed ahead.
 */
import { defineStage } from '@leasehold/queue'
import { expect, test } from 'vitest'
import { z } from 'zod'
import { Capacity } from '../src/capacity.ts'

function capacityOf(): Capacity {
  const stages = [2, 10].map((concurrency, i) =>
    defineStage({ name: `stage-${i}`, payload: z.unknown(), concurrency, run: () => Promise.resolve() }),
  )
  return new Capacity({ stages, concurrency: 20, stageConcurrency: 10 })
}

test('a runner has as much room as its fullest stage', () => {
  const capacity = capacityOf()
  expect(capacity.room).toBe(2)
  for (let i = 0; i < 9; i++) capacity.begin(capacity.of('stage-1'))
  expect(capacity.room).toBe(1)
  capacity.begin(capacity.of('stage-0'))
  capacity.begin(capacity.of('stage-0'))
  expect(capacity.room).toBe(0)
  capacity.finish(capacity.of('stage-0'))
  expect(capacity.room).toBe(1)
})

test('a task that has seen a worker end leaves no room beside it for as long as it holds its place', () => {
  const capacity = capacityOf()
  const suspect = { served: capacity.of('stage-1'), delicate: true }
  capacity.take(suspect)
  capacity.begin(suspect.served)
  expect(capacity.room).toBe(0)
  capacity.leave(suspect)
  capacity.finish(suspect.served)
  expect(capacity.room).toBe(2)
})
