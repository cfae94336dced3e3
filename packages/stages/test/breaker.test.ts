/**
 * Holds the breaker and the gate: who is let through, when.
 */
import { describe, expect, test } from 'vitest'
import { createBreaker } from '../src/breaker.ts'
import { createGate } from '../src/gate.ts'

function breakerAt(clock: { ms: number }) {
  return createBreaker({ failures: 3, coolDownMs: 1_000, maxCoolDownMs: 3_000, now: () => clock.ms })
}

describe('a breaker', () => {
  test('opens after failures in a row, not after scattered ones', () => {
    const breaker = breakerAt({ ms: 0 })
    for (const end of ['failed', 'failed', 'succeeded', 'failed', 'failed'] as const) breaker[end]()
    expect(breaker.enter()).toBe(true)
    breaker.failed()
    expect(breaker.enter()).toBe(false)
  })

  test('lets one caller try after the cool-down, and everybody once that one succeeded', () => {
    const clock = { ms: 0 }
    const breaker = breakerAt(clock)
    for (let i = 0; i < 3; i++) breaker.failed()
    clock.ms = 999
    expect(breaker.enter()).toBe(false)
    clock.ms = 1_000
    expect([breaker.enter(), breaker.enter()]).toEqual([true, false])
    breaker.succeeded()
    expect([breaker.enter(), breaker.enter()]).toEqual([true, true])
  })

  test('waits twice as long after a failed trial, up to its maximum', () => {
    const clock = { ms: 0 }
    const breaker = breakerAt(clock)
    for (let i = 0; i < 3; i++) breaker.failed()
    for (const wait of [1_000, 2_000, 3_000, 3_000]) {
      clock.ms += wait - 1
      expect(breaker.enter()).toBe(false)
      clock.ms += 1
      expect(breaker.enter()).toBe(true)
      breaker.failed()
    }
  })

  test('an aborted trial leaves the next one to somebody else', () => {
    const clock = { ms: 0 }
    const breaker = breakerAt(clock)
    for (let i = 0; i < 3; i++) breaker.failed()
    clock.ms = 1_000
    expect(breaker.enter()).toBe(true)
    breaker.left()
    expect(breaker.enter()).toBe(true)
  })

  test('failures that come in late do not prolong the cool-down', () => {
    const clock = { ms: 0 }
    const breaker = breakerAt(clock)
    for (let i = 0; i < 3; i++) breaker.failed()
    clock.ms = 900
    breaker.failed()
    clock.ms = 1_000
    expect(breaker.enter()).toBe(true)
  })
})

describe('a gate', () => {
  const never = new AbortController().signal

  test('lets one caller through per key, in order, and keys do not wait for each other', async () => {
    const gate = createGate()
    const log: string[] = []
    const locks = new Map(['a1', 'a2', 'b1'].map((name) => [name, Promise.withResolvers<void>()]))
    const enter = (key: string, name: string) =>
      gate.run(key, never, async () => {
        log.push(`${name} in`)
        await locks.get(name)?.promise
        log.push(`${name} out`)
      })
    const all = [enter('a', 'a1'), enter('a', 'a2'), enter('b', 'b1')]
    locks.get('b1')?.resolve()
    await all[2]
    locks.get('a2')?.resolve()
    locks.get('a1')?.resolve()
    await Promise.all(all)
    expect(log.filter((entry) => entry.startsWith('a'))).toEqual(['a1 in', 'a1 out', 'a2 in', 'a2 out'])
    expect(log.indexOf('b1 out')).toBeLessThan(log.indexOf('a1 out'))
  })

  test('who gives up while waiting does not let the next one in early', async () => {
    const gate = createGate()
    const first = Promise.withResolvers<void>()
    const abort = new AbortController()
    let inside = 0
    const work = async (wait: Promise<void>) => {
      inside++
      expect(inside).toBe(1)
      await wait
      inside--
    }
    const one = gate.run('a', never, () => work(first.promise))
    const two = gate.run('a', abort.signal, () => work(Promise.resolve()))
    const three = gate.run('a', never, () => work(Promise.resolve()))
    abort.abort(new Error('gave up'))
    await expect(two).rejects.toThrow('gave up')
    first.resolve()
    await Promise.all([one, three])
  })

  test('a failing caller passes its turn on', async () => {
    const gate = createGate()
    await expect(gate.run('a', never, () => Promise.reject(new Error('broken')))).rejects.toThrow('broken')
    await expect(gate.run('a', never, () => Promise.resolve('next'))).resolves.toBe('next')
  })
})
