/**
 * Holds batching: many handlers, one statement; and one handler's bad item is nobody else's.
 */
import type { Db } from '@leasehold/queue'
import { describe, expect, test } from 'vitest'
import { createBatch } from '../src/store/batch.ts'

// The batch only passes the connection on.
const db: Db = { query: () => Promise.reject(new Error('not asked in these tests')) }

describe('a batch', () => {
  test('takes together what is asked for at the same time, and answers each', async () => {
    const sizes: number[] = []
    const double = createBatch<number, number>((_db, items) => {
      sizes.push(items.length)
      return Promise.resolve(items.map((n) => n * 2))
    })
    const answers = await Promise.all(Array.from({ length: 1_200 }, (_, n) => double(db, n)))
    expect(answers).toEqual(Array.from({ length: 1_200 }, (_, n) => n * 2))
    expect(sizes).toEqual([500, 500, 200])
  })

  test('collects while one is under way, and starts again after a pause', async () => {
    const started: { items: readonly string[]; finish: () => void }[] = []
    const arrived = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
    const ask = createBatch<string, string>(async (_db, items) => {
      const { promise, resolve } = Promise.withResolvers<void>()
      started.push({ items, finish: resolve })
      arrived[started.length - 1]?.resolve()
      await promise
      return items
    })
    const first = ask(db, 'a')
    await arrived[0]?.promise
    const rest = Promise.all([ask(db, 'b'), ask(db, 'c')])
    started[0]?.finish()
    await first
    await arrived[1]?.promise
    started[1]?.finish()
    await rest
    const alone = ask(db, 'd')
    await expect.poll(() => started.length).toBe(3)
    started[2]?.finish()
    await alone
    expect(started.map((one) => one.items)).toEqual([['a'], ['b', 'c'], ['d']])
  })

  test('fails only the item that is bad', async () => {
    const ask = createBatch<string, string>((_db, items) =>
      items.includes('bad') ? Promise.reject(new Error('bad item')) : Promise.resolve(items),
    )
    const answers = await Promise.allSettled(['a', 'bad', 'c'].map((item) => ask(db, item)))
    expect(answers.map((answer) => answer.status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
    await expect(ask(db, 'later')).resolves.toBe('later')
  })
})
