/**
 * Sharing a read: who shares it, how long it serves, and that a failure of any kind leaves the next one free.
 */
import { type Answer, SharedRead } from '@leasehold/daemon-control'
import { expect, test } from 'vitest'

test('who asks while a read is under way shares it; who asks after it has ended begins another when it is not fresh', async () => {
  let gate = Promise.withResolvers<number>()
  let reads = 0
  const ended: Answer<number>[] = []
  const read = (): Promise<number> => {
    reads += 1
    return gate.promise
  }
  const shared = new SharedRead(read, { freshMs: 0, patienceMs: 60_000, onEnd: (one) => ended.push(one) })
  const asked = [shared.get(), shared.get(), shared.get()]
  gate.resolve(7)
  const answers = await Promise.all(asked)
  expect(answers.map((one) => one.ok && one.value)).toEqual([7, 7, 7])
  expect([reads, ended.length]).toEqual([1, 1])
  gate = Promise.withResolvers<number>()
  gate.resolve(8)
  expect(await shared.get()).toMatchObject({ ok: true, value: 8 })
})

test('a fresh answer serves without a read, a failure as well', async () => {
  let reads = 0
  const read = (): Promise<never> => Promise.reject(new Error(`no ${(reads += 1)}`))
  const shared = new SharedRead(read, { freshMs: 60_000, patienceMs: 60_000 })
  const [first, second] = [await shared.get(), await shared.get()]
  expect(first).toEqual({ ok: false, error: new Error('no 1') })
  expect(second).toBe(first)
})

test('what throws at once is a failure like any other, and the next read may succeed', async () => {
  let open = false
  const read = (): Promise<number> => {
    if (!open) throw new Error('not open')
    return Promise.resolve(1)
  }
  const shared = new SharedRead(read, { freshMs: 0, patienceMs: 60_000 })
  expect(await shared.get()).toMatchObject({ ok: false })
  open = true
  expect(await shared.get()).toMatchObject({ ok: true, value: 1 })
})

test('nobody waits longer than its patience, and no second read begins meanwhile', async () => {
  const gate = Promise.withResolvers<number>()
  let reads = 0
  const read = (): Promise<number> => {
    reads += 1
    return gate.promise
  }
  const shared = new SharedRead(read, { freshMs: 60_000, patienceMs: 1 })
  expect(await shared.get()).toEqual({
    ok: false,
    error: new Error('the database has not answered within 1 ms'),
  })
  expect(await shared.get()).toMatchObject({ ok: false })
  expect(reads).toBe(1)
  gate.resolve(9)
  await expect.poll(() => shared.get()).toMatchObject({ ok: true, value: 9 })
  expect(reads).toBe(1)
})
