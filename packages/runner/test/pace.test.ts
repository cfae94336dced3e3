/**
 * How far ahead a runner claims: twice as far with each quick answer, and only slowly again after something had to wait.
 */
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { largeBatch } from '../src/capacity.ts'
import { Pace } from '../src/pace.ts'

beforeEach(() => void vi.useFakeTimers({ toFake: ['performance'] }))
afterEach(() => void vi.useRealTimers())

const wish = { stages: ['quick'], limits: [10], total: 10, complete: true }

/** So many answers that brought all that was asked for, and whose handlers took so long together. */
function answers(pace: Pace, count: number, handlersMs = 0): void {
  for (let i = 0; i < count; i++) {
    const look = pace.look(wish)
    pace.begins()
    pace.looked(
      wish,
      look,
      { claimed: 10, full: true, rich: true, saturated: false },
      { dueInMs: undefined, held: [] },
    )
    vi.advanceTimersByTime(handlersMs)
    pace.turned(true)
  }
}

function paceOf(): Pace {
  return new Pace({ stages: [], maxPollMs: 1000 }, () => false)
}

test('nothing is claimed ahead before several answers in a row were quick, and never more than two large batches', () => {
  const pace = paceOf()
  answers(pace, 3)
  expect(pace.ahead).toBe(0)
  answers(pace, 3)
  expect(pace.ahead).toBe(4)
  answers(pace, 50)
  expect(pace.ahead).toBe(2 * largeBatch)
})

test('half as much is claimed ahead when handlers take long together', () => {
  const pace = paceOf()
  answers(pace, 50)
  answers(pace, 2, 11)
  expect(pace.ahead).toBe(largeBatch / 2)
})

test('after something had to wait nothing is claimed ahead for a while, then a quarter, then slowly more', () => {
  const pace = paceOf()
  answers(pace, 50)
  pace.waited()
  answers(pace, 50)
  expect(pace.ahead).toBe(0)
  vi.advanceTimersByTime(5_001)
  answers(pace, 50)
  expect(pace.ahead).toBe(largeBatch / 2)
  vi.advanceTimersByTime(25_000)
  answers(pace, 50)
  expect(pace.ahead).toBe(largeBatch)
})
