/**
 * Whatever a handler leaves behind can be stored: cleaning never throws, and PostgreSQL takes what it makes.
 *
 * Each text is put through a real jsonb or text value, because it is PostgreSQL that decides what can be stored.
 */
import { cleanExact, cleanJson, cleanText, describeError } from '@leasehold/queue'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'

let database: TestDatabase

beforeAll(async () => {
  database = await createTestDatabase({ empty: true, max: 1 })
})
afterAll(() => database.drop())

async function stored(json: string): Promise<unknown> {
  const { rows } = await database.pool.query<{ value: unknown }>('select $1::jsonb as value', [json])
  return rows[0]!.value
}

function nested(levels: number): unknown {
  let value: unknown = 'bottom'
  for (let i = 0; i < levels; i++) value = i % 2 === 0 ? [value] : { value }
  return value
}

const cyclic: { name: string; self?: unknown } = { name: 'c' }
cyclic.self = { again: cyclic }
const shared = { x: 1 }
const throwing = {
  fine: 1,
  get broken(): never {
    throw new Error('no\u0000!')
  },
}

test.each([
  ['a plain value', { a: [1, 'two', null] }, { a: [1, 'two', null] }],
  ['NUL', { a: 'x\u0000y' }, { a: 'x\uFFFDy' }],
  ['NUL in a name', { 'x\u0000y': 1 }, { 'x\uFFFDy': 1 }],
  ['half a surrogate pair, in value and name', { '\ud800': '\udc00' }, { '\uFFFD': '\uFFFD' }],
  ['a whole surrogate pair', ['😀'], ['😀']],
  ['backslashes that look like NUL', ['\\u0000', '\\\\u0000', '\\'], ['\\u0000', '\\\\u0000', '\\']],
  ['a bigint', [2n ** 64n], ['18446744073709551616']],
  ['what JSON has no number for', [Number.NaN, Infinity], [null, null]],
  ['nothing', undefined, null],
  ['a cycle', cyclic, { name: 'c', self: { again: '[circular]' } }],
  ['the same object twice', [shared, shared], [shared, shared]],
  ['a symbol', [Symbol('s')], ['Symbol(s)']],
  ['a date that is none', [new Date(Number.NaN)], [null]],
  ['a getter that throws', [throwing, 2], [{ fine: 1, broken: '[unreadable: no\uFFFD!]' }, 2]],
  [
    'a toJSON that throws',
    { a: 1, b: { toJSON: () => JSON.parse('{') as unknown } },
    { a: 1, b: expect.stringContaining('[unreadable: ') as string },
  ],
])('%s is storable', async (_, value, expected) => {
  expect(await stored(cleanJson(value))).toEqual(expected)
})

test('for exact readers a bigint is a number, and everything else as ever', async () => {
  const value = { large: 2n ** 64n, nul: 'x\u0000y', again: cyclic, parts: throwing }
  expect(cleanExact(value)).toBe(cleanJson(value).replace('"18446744073709551616"', '18446744073709551616'))
})

test.each([600, 10_000, 200_000])('%i levels are cut where they get too deep', async (levels) => {
  expect(JSON.stringify(await stored(cleanJson(nested(levels))))).toContain('[nested too deeply]')
})

test('a value that is too long is cut, says so, and is still storable', async () => {
  const value = await stored(cleanJson('😀'.repeat(1000), 1500))
  expect(value).toMatchObject({ cut: true, length: 2002 })
})

test('text is cut between characters and without NUL', async () => {
  const { rows } = await database.pool.query('select $1::text as text', [cleanText('a\u0000😀😀', 4)])
  expect(rows).toEqual([{ text: 'a\uFFFD\uFFFD…' }])
})

class Odd extends Error {}
const odd = new Odd('odd')
Object.assign(odd, { name: 5, message: { not: 'text' }, stack: 7, code: 9 })

test.each([
  ['an error', new TypeError('bad\u0000'), { code: 'TypeError', message: 'bad\uFFFD' }],
  ['an error with a code', Object.assign(new Error('x'), { code: 'E1' }), { code: 'E1', message: 'x' }],
  ['an error without a message', new Error(), { code: 'Error', message: 'Error' }],
  ['an error of odd parts', odd, { code: '5', message: '{"not":"text"}' }],
  ['a thrown text', 'text', { code: 'thrown', message: 'text' }],
  ['a thrown object', { a: 1n }, { code: 'thrown', message: '{"a":"1"}' }],
  ['nothing thrown', undefined, { code: 'thrown', message: 'null' }],
])('%s is described', async (_, error, expected) => {
  const described = describeError(error)
  expect(described).toMatchObject(expected)
  expect(await stored(cleanJson(described))).toMatchObject(expected)
})
