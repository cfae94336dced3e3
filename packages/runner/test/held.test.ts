/**
 * What is held is found, whatever ids share a slot, as often as it comes and goes.
 */
import { expect, test } from 'vitest'
import { Held } from '../src/held.ts'

class Item {
  nextHeld: Item | null = null
  readonly taskId: string

  constructor(taskId: string) {
    this.taskId = taskId
  }
}

test.each([
  ['in a row', (n: number) => String(n)],
  ['with the same last six digits', (n: number) => `${n}123456`],
  ['at both ends of what an id may be', (n: number) => (n % 2 === 0 ? String(-n) : `92233720368547${n}`)],
])('5,000 with ids %s go as they came, in any order', (_what, idOf) => {
  const held = new Held<Item>()
  const items = Array.from({ length: 5000 }, (_, n) => new Item(idOf(n + 10_000)))
  for (const [count, item] of items.entries()) {
    expect(held.get(item.taskId)).toBeNull()
    held.add(item)
    expect(held.size).toBe(count + 1)
  }
  expect(new Set(held.all())).toEqual(new Set(items))
  // 1,999 shares no divisor with 5,000: each is taken once, far from the one before.
  for (let i = 0; i < items.length; i++) {
    const item = items[(i * 1999) % items.length]!
    expect(held.get(item.taskId)).toBe(item)
    held.remove(item)
    expect(held.get(item.taskId)).toBeNull()
    expect(item.nextHeld).toBeNull()
  }
  expect([held.size, held.all()]).toEqual([0, []])
})

test('what is not in is not taken out, and takes nobody of the same id or slot with it', () => {
  const held = new Held<Item>()
  const there = new Item('7')
  held.add(there)
  held.remove(new Item('7'))
  held.remove(new Item('1000007'))
  expect([held.size, held.get('7'), held.get('1000007')]).toEqual([1, there, null])
  held.remove(there)
  held.remove(there)
  expect(held.size).toBe(0)
})
