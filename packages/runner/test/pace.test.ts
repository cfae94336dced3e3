/**
 * How far ahead a runner claims: up to four times as far with each quick answer, half as far when one was slow or brought too little,
 * never further than finds room, and only slowly again after something had to wait.
 */
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { largeBatch } from '../src/capacity.ts'
import { Pace } from '../src/pace.ts'

let cpuMs = 0

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['performance'] })
  vi.spyOn(process, 'cpuUsage').mockImplementation(() => ({ user: cpuMs * 700, system: cpuMs * 300 }))
})
afterEach(() => {
  vi.restoreAllMocks()
  vi.useRealTimers()
})

const tenClaimed = { claimed: 10, full: true, rich: true, saturated: false }
const wish = { stages: ['quick'], limits: [10], total: 10, complete: true }

interface Answers {
  /** By the clock, for the handlers of one answer together. */
  readonly ms?: number
  /** Of this process meanwhile. */
  readonly cpu?: number
  /** It brought all that was asked for. */
  readonly rich?: boolean
  /** What the loop rests before its turn is over. */
  readonly restMs?: number
  /** Places in which no handler runs. */
  readonly room?: number
  /** How many of ten do not end at once. */
  readonly goOn?: number
}

/** So many answers. */
function answers(
  pace: Pace,
  count: number,
  { ms = 0, cpu = 0, rich = true, restMs = 0, room = 10, goOn = 0 }: Answers = {},
): void {
  for (let i = 0; i < count; i++) {
    const look = pace.look(wish)
    const got = { claimed: rich ? 10 : 3, full: rich, rich, saturated: false }
    pace.begins(got, 0)
    pace.looked(wish, look, got, { dueInMs: undefined, held: [] })
    vi.advanceTimersByTime(ms)
    cpuMs += cpu
    pace.started(got.claimed - goOn)
    vi.advanceTimersByTime(restMs)
    pace.turned({ room, finished: got.claimed - goOn })
  }
}

function paceOf(): Pace {
  return new Pace({ stages: [], maxPollMs: 1000 }, () => false, 2 * largeBatch)
}

test('nothing is claimed ahead before several answers in a row were quick, and never more than two large batches', () => {
  const pace = paceOf()
  answers(pace, 3)
  expect(pace.ahead).toBe(0)
  answers(pace, 3)
  expect(pace.ahead).toBe(16)
  answers(pace, 50)
  expect(pace.ahead).toBe(2 * largeBatch)
})

test('half as much is claimed ahead when the handlers of one answer computed for long, or blocked for very long', () => {
  const pace = paceOf()
  answers(pace, 50)
  answers(pace, 2, { cpu: 11, ms: 11 })
  expect(pace.ahead).toBe(largeBatch / 2)
  answers(pace, 1, { ms: 501 })
  expect(pace.ahead).toBe(largeBatch / 4)
})

test('no more is claimed ahead than would still be quick', () => {
  const pace = paceOf()
  answers(pace, 6)
  answers(pace, 1, { cpu: 5, ms: 5 })
  expect(pace.ahead).toBe(32)
  answers(pace, 1, { cpu: 10, ms: 10 })
  expect(pace.ahead).toBe(32)
})

test('a process that waits for its core claims ahead all the same, and no more while it waits for long', () => {
  const pace = paceOf()
  answers(pace, 6, { ms: 200, cpu: 2 })
  expect(pace.ahead).toBe(8)
  answers(pace, 3, { ms: 300, cpu: 2 })
  expect(pace.ahead).toBe(8)
})

test('half as much is claimed ahead after a look that brought too little, and soon nothing', () => {
  const pace = paceOf()
  answers(pace, 50)
  answers(pace, 1, { rich: false })
  expect(pace.ahead).toBe(largeBatch)
  answers(pace, 11, { rich: false })
  expect(pace.ahead).toBe(0)
})

test('a runner that has rested claims nothing ahead: what comes next may take long', () => {
  const pace = paceOf()
  answers(pace, 50)
  answers(pace, 1, { rich: false, restMs: 501 })
  expect(pace.ahead).toBe(0)
})

test('a runner that has rested is soon back where it was, and only while what comes next is quick too', () => {
  const pace = paceOf()
  answers(pace, 50)
  answers(pace, 20, { rich: false })
  answers(pace, 1, { rich: false, restMs: 501 })
  answers(pace, 3)
  expect(pace.ahead).toBe(256)
  answers(pace, 1)
  expect(pace.ahead).toBe(2 * largeBatch)
  answers(pace, 20, { rich: false })
  answers(pace, 1, { cpu: 11, ms: 11 })
  answers(pace, 3)
  expect(pace.ahead).toBe(0)
  answers(pace, 1)
  expect(pace.ahead).toBe(1)
})

test('what other threads of the process use does not make handlers slow', () => {
  const pace = paceOf()
  answers(pace, 50)
  answers(pace, 3, { cpu: 40, ms: 10 })
  expect(pace.ahead).toBe(2 * largeBatch)
})

test('what other workers of the process do meanwhile makes handlers no slower', () => {
  const pace = paceOf()
  answers(pace, 6)
  pace.begins(tenClaimed, 0)
  pace.started(10)
  cpuMs += 40
  vi.advanceTimersByTime(40)
  pace.turned({ room: 10, finished: 10 })
  expect(pace.ahead).toBe(64)
})

test('what handlers do that waited for a moment counts too', () => {
  const pace = paceOf()
  answers(pace, 6)
  pace.begins(tenClaimed, 0)
  pace.started(10)
  cpuMs += 40
  vi.advanceTimersByTime(40)
  pace.turned({ room: 10, finished: 11 })
  expect(pace.ahead).toBe(8)
})

test('what the handlers of two answers take before a turn is over counts together', () => {
  const pace = paceOf()
  answers(pace, 6)
  for (let i = 0; i < 2; i++) {
    pace.begins(tenClaimed, 0)
    cpuMs += 6
    vi.advanceTimersByTime(6)
    pace.started(10)
  }
  pace.turned({ room: 10, finished: 10 })
  expect(pace.ahead).toBe(8)
})

test('more is claimed ahead as long as there is room for any, and never more than the limit', () => {
  const pace = new Pace({ stages: [], maxPollMs: 1000 }, () => false, 64)
  answers(pace, 4, { cpu: 6, ms: 6 })
  expect(pace.ahead).toBe(1)
  answers(pace, 1, { cpu: 6, ms: 6 })
  expect(pace.ahead).toBe(2)
  answers(pace, 50)
  expect(pace.ahead).toBe(64)
  answers(pace, 1, { cpu: 11, ms: 11 })
  expect(pace.ahead).toBe(32)
})

test('nothing is claimed ahead once every place is taken', () => {
  const pace = paceOf()
  answers(pace, 50)
  answers(pace, 1, { room: 0 })
  expect(pace.ahead).toBe(0)
  answers(pace, 3)
  expect(pace.ahead).toBe(0)
})

test('so much is claimed ahead that those which will go on need half of the free places at most', () => {
  const pace = paceOf()
  answers(pace, 50, { room: 100, goOn: 1 })
  expect(pace.ahead).toBe(500)
  answers(pace, 1, { room: 40, goOn: 1 })
  expect(pace.ahead).toBe(200)
  answers(pace, 100, { room: 100, goOn: 5 })
  expect(pace.ahead).toBe(100)
  answers(pace, 100, { room: 100 })
  expect(pace.ahead).toBe(2 * largeBatch)
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
