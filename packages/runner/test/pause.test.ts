/**
 * Long waits in steps: each step counts as a turn, and what was waited for ends them.
 */
import { expect, test } from 'vitest'
import { pauseInSteps, stepOf } from '../src/pause.ts'

test('a long wait turns at each step, and ends as soon as what it waits for has come', async () => {
  let turns = 0
  const stop = new AbortController().signal
  await pauseInSteps(3_600_000, { stepMs: 1, stop, turned: () => (turns += 1), over: () => turns >= 5 })
  expect(turns).toBe(5)
})

test('it ends with the process, and after its time', async () => {
  const stopping = new AbortController()
  const waiting = pauseInSteps(3_600_000, { stepMs: 3_600_000, stop: stopping.signal, turned: () => {} })
  stopping.abort()
  await waiting
  let turns = 0
  const stop = new AbortController().signal
  await pauseInSteps(20, { stepMs: 5, stop, turned: () => (turns += 1) })
  expect(turns).toBeGreaterThan(0)
})

test('steps are shorter than what anybody takes for standing still', () => {
  expect(stepOf({ wedgeLimitMs: 500 })).toBe(125)
  expect(stepOf({ wedgeLimitMs: 600_000 })).toBe(5000)
})
