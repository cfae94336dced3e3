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
  for (let i = 0; i < 50; i++) crowding.took(3, 60)
  for (let i = 0; i < 50; i++) crowding.took(40, 1900)
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

/** Who has come in so far, in order. */
function queueOf(turnstile: Turnstile, names: string, mostMs: number): string[] {
  const inside: string[] = []
  for (const name of names) void turnstile.enter(mostMs).then(() => inside.push(name))
  return inside
}

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

test('two are let through at once, the others in the order in which they came', async () => {
  const turnstile = new Turnstile()
  const inside = queueOf(turnstile, 'abcde', 1000)
  await vi.advanceTimersByTimeAsync(500)
  expect(inside.join('')).toBe('ab')
  turnstile.leave()
  await vi.advanceTimersByTimeAsync(0)
  expect(inside.join('')).toBe('abc')
  turnstile.leave()
  turnstile.leave()
  await vi.advanceTimersByTimeAsync(0)
  expect(inside.join('')).toBe('abcde')
})

test('who has waited long enough goes, though those inside hang; afterwards two at once again', async () => {
  const turnstile = new Turnstile()
  const inside = queueOf(turnstile, 'abc', 1000)
  await vi.advanceTimersByTimeAsync(1000)
  expect(inside.join('')).toBe('abc')
  const later = queueOf(turnstile, 'de', 1000)
  turnstile.leave()
  await vi.advanceTimersByTimeAsync(0)
  expect(later.join('')).toBe('')
  turnstile.leave()
  await vi.advanceTimersByTimeAsync(0)
  expect(later.join('')).toBe('d')
})

test('workers on one database share a turnstile, those on another one do not', () => {
  expect(turnstileOf('postgres://a')).toBe(turnstileOf('postgres://a'))
  expect(turnstileOf('postgres://a')).not.toBe(turnstileOf('postgres://b'))
})
