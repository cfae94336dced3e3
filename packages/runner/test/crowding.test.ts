/**
 * What keeps workers from making each other's exchanges longer: no second one on a crowded database, and few large ones of
 * one process at once.
 */
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { Crowding, Turnstile, turnstileOf } from '../src/crowding.ts'

test('a database is crowded when exchanges take several times as long as the quickest did for as much', () => {
  const crowding = new Crowding()
  expect(crowding.crowded).toBe(false)
  for (let i = 0; i < 100; i++) crowding.took(i % 2 === 0 ? 10 : 25, 600)
  expect(crowding.crowded).toBe(false)
  for (let i = 0; i < 20; i++) crowding.took(60, 600)
  expect(crowding.crowded).toBe(true)
  for (let i = 0; i < 20; i++) crowding.took(12, 600)
  expect(crowding.crowded).toBe(false)
})

test('a large exchange may take longer than a small one, and a tiny one says nothing', () => {
  const crowding = new Crowding()
  for (let i = 0; i < 50; i++) crowding.took(20, 1900)
  for (let i = 0; i < 50; i++) crowding.took(3, 40)
  for (let i = 0; i < 50; i++) crowding.took(500, 1)
  expect(crowding.crowded).toBe(false)
})

test('what is slow for good is not crowded for ever: a network that became longer', () => {
  const crowding = new Crowding()
  for (let i = 0; i < 20; i++) crowding.took(10, 600)
  for (let i = 0; i < 20; i++) crowding.took(60, 600)
  expect(crowding.crowded).toBe(true)
  for (let i = 0; i < 500; i++) crowding.took(60, 600)
  expect(crowding.crowded).toBe(false)
})

const hurry = new Set<() => void>()

const leaves: (() => void)[] = []

/** Who has come in so far, in order. */
function queueOf(turnstile: Turnstile, names: string, mostMs = 5000): string[] {
  const inside: string[] = []
  const go = async (name: string) => {
    leaves.push(await turnstile.enter(mostMs, hurry))
    inside.push(name)
  }
  for (const name of names) void go(name)
  return inside
}

beforeEach(() => {
  vi.useFakeTimers()
  hurry.clear()
  leaves.length = 0
})
afterEach(() => void vi.useRealTimers())

test('two are let through at once, the others in the order in which they came', async () => {
  const turnstile = new Turnstile()
  const inside = queueOf(turnstile, 'abcde')
  await vi.advanceTimersByTimeAsync(500)
  expect(inside.join('')).toBe('ab')
  leaves[1]!()
  leaves[1]!() // once is enough
  await vi.advanceTimersByTimeAsync(0)
  expect(inside.join('')).toBe('abc')
  leaves[0]!()
  leaves[2]!()
  await vi.advanceTimersByTimeAsync(0)
  expect(inside.join('')).toBe('abcde')
})

test('nobody waits for one that hangs, and one that comes back late lets nobody in', async () => {
  const turnstile = new Turnstile()
  const inside = queueOf(turnstile, 'abcde')
  await vi.advanceTimersByTimeAsync(999)
  expect(inside.join('')).toBe('ab')
  await vi.advanceTimersByTimeAsync(1)
  expect(inside.join('')).toBe('abcd')
  leaves[0]!()
  leaves[1]!()
  await vi.advanceTimersByTimeAsync(0)
  expect(inside.join('')).toBe('abcd')
  leaves[2]!()
  await vi.advanceTimersByTimeAsync(0)
  expect(inside.join('')).toBe('abcde')
})

test('who has waited as long as it may goes, and then two at once again', async () => {
  const turnstile = new Turnstile()
  const inside = queueOf(turnstile, 'abc', 600)
  await vi.advanceTimersByTimeAsync(600)
  expect(inside.join('')).toBe('abc')
  const later = queueOf(turnstile, 'd')
  leaves[0]!()
  await vi.advanceTimersByTimeAsync(0)
  expect(later.join('')).toBe('')
  leaves[1]!()
  await vi.advanceTimersByTimeAsync(0)
  expect(later.join('')).toBe('d')
})

test('whoever ends need not wait for others', async () => {
  const turnstile = new Turnstile()
  const inside = queueOf(turnstile, 'abcd')
  await vi.advanceTimersByTimeAsync(0)
  expect(inside.join('')).toBe('ab')
  for (const go of hurry) go()
  await vi.advanceTimersByTimeAsync(0)
  expect(inside.join('')).toBe('abcd')
  expect(hurry.size).toBe(0)
})

test('workers on one database share a turnstile, those on another one do not', () => {
  expect(turnstileOf('postgres://a')).toBe(turnstileOf('postgres://a'))
  expect(turnstileOf('postgres://a')).not.toBe(turnstileOf('postgres://b'))
})
