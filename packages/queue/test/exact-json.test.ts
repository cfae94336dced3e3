/**
 * Whole numbers keep their value from a submitter to a handler's schema, whatever their size.
 */
import { parseExact, parsePayload, submit, writeExact } from '@leasehold/queue'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { z } from 'zod'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { addStage, addWorker } from './scene.ts'
import { exchanged } from './worker-scene.ts'

let db: TestDatabase
beforeAll(async () => {
  db = await createTestDatabase()
})
afterAll(() => db.drop())

test.each([
  ['9007199254740991', 9007199254740991],
  ['9007199254740992', 9007199254740992],
  ['9007199254740993', 9007199254740993n],
  ['-9007199254740993', -9007199254740993n],
  ['1234567890123456789', 1234567890123456789n],
  ['1000000000000000000000', 1e21],
  ['1000000000000000000001', 1000000000000000000001n],
  [`17976931348623157${'0'.repeat(292)}`, Number.MAX_VALUE],
  ['0.12345678901234567890', 0.12345678901234568],
  ['"9007199254740993"', '9007199254740993'],
  ['{"a": [1, 9007199254740993]}', { a: [1, 9007199254740993n] }],
  ['{"9007199254740993": "9007199254740993"}', { '9007199254740993': '9007199254740993' }],
  ['["\\\\", 9007199254740993, "\\"9007199254740993"]', ['\\', 9007199254740993n, '"9007199254740993']],
  ['[12345678901234567e3, 1.1234567890123456789]', [12345678901234567000, 1.1234567890123457]],
  ['1'.repeat(400), BigInt('1'.repeat(400))],
])('%s is parsed as what it is', (text, value) => {
  expect(parseExact(text)).toEqual(value)
})

test('an integer is seen wherever it stands', () => {
  for (let before = 0; before < 40; before++) {
    const [number, text] = ['9007199254740993', 'x'.repeat(before)]
    expect(parseExact(`["${text}",${number}]`)).toEqual([text, BigInt(number)])
  }
})

test('a name that objects have anyway is one like any other', () => {
  const parsed = parseExact('{"__proto__": 9007199254740993}') as object
  expect(Object.entries(parsed)).toEqual([['__proto__', 9007199254740993n]])
})

test.each(['01234567890123456789', '1234567890123456789x', '5-1234567890123456789', '"1234567890123456789'])(
  '%s is no JSON',
  (text) => {
    expect(() => parseExact(text)).toThrow(SyntaxError)
  },
)

test.each([
  ['100,000 levels', '['.repeat(100_000), ']'.repeat(100_000)],
  ['a text of many megabytes', `["${'x\\n'.repeat(5_000_000)}", `, ']'],
])('%s around an integer does not end it', (_what, before, after) => {
  let value = parseExact(`${before}9007199254740993${after}`)
  while (Array.isArray(value)) value = value.at(-1)
  expect(value).toBe(9007199254740993n)
})

test('a bigint is written as the number it is, beside everything else', () => {
  expect(writeExact({ a: 2n ** 64n, b: 'x', c: [1.5, null, undefined] })).toBe(
    '{"a":18446744073709551616,"b":"x","c":[1.5,null,null]}',
  )
  expect(() => writeExact(cyclic)).toThrow(/circular/)
})

const cyclic: Record<string, unknown> = {}
cyclic['self'] = cyclic

test('an id of any size goes through the database into a handler’s schema', async () => {
  const stage = await addStage(db.pool)
  const worker = await addWorker(db.pool, [stage])
  const payload = z.object({ small: z.coerce.bigint(), large: z.coerce.bigint() })
  await submit(db.pool, { name: stage, payload } as never, { small: 7n, large: 2n ** 63n - 1n } as never)
  const answer = await exchanged({ workerId: worker, stages: [stage], limits: [1] }, db.pool)
  const received = parsePayload({ name: stage, payload }, answer.claimed[0]!.payload)
  expect(received).toEqual({ small: 7n, large: 9223372036854775807n })
})
