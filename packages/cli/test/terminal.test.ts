/**
 * What is shown to people: escaping, times, tables. Pure functions, no database.
 */
import { expect, test } from 'vitest'
import { parseExactly } from '../src/exact-json.ts'
import { readableLine } from '../src/processes/log-lines.ts'
import { printable, safeJson } from '../src/terminal/printable.ts'
import { facts, table } from '../src/terminal/table.ts'
import type { Terminal } from '../src/terminal/terminal.ts'
import { duration, parseDuration, parseMoment, relative } from '../src/terminal/time.ts'

const piped: Terminal = { isTty: false, columns: 80, out() {}, note() {}, paint: (_style, text) => text }
const narrow: Terminal = { ...piped, isTty: true, columns: 40 }

test('stored text cannot drive the terminal', () => {
  expect(printable('a\u001b[31mred\u0007\u009b2J')).toBe('a\\e[31mred\\u{7}\\u{9b}2J')
  expect(printable('one\ntwo\rthree\tfour')).toBe('one\\ntwo\\rthree\\tfour')
  expect(printable('user\u202egnp.exe\u2066')).toBe('user\\u{202e}gnp.exe\\u{2066}')
  expect(printable('half \ud83d')).toBe('half \\u{d83d}')
  expect(printable('Grüße 日本 🎉')).toBe('Grüße 日本 🎉')
})

test('text that is too long ends in an ellipsis', () => {
  expect(printable('abcdef', 4)).toBe('abc…')
})

test('JSON output is the same value without a character that could drive the terminal', () => {
  const value = { a: '\u009b2J\u202e\u2028\u007f\u{e0041}', b: ['x\ny', 1] }
  const text = safeJson(value)
  // oxlint-disable-next-line no-control-regex -- that is the claim
  expect(text).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202e\u2028]/)
  expect(JSON.parse(text)).toEqual(value)
})

test('a bigint is written as the number it is', () => {
  expect(safeJson({ id: 2n ** 63n }, 0)).toBe('{"id":9223372036854775808}')
})

test('numbers beyond 2^53 are written out as they were read', () => {
  const text = '{"id":9223372036854775807,"huge":1e400,"plain":7,"small":0.1,"exact":1.10}'
  expect(safeJson(parseExactly(text), 0)).toBe(text)
})

test('lengths of time are told in their two largest units', () => {
  expect([0, 850, 12_400, 200_000, 7_500_000, 90_000_000].map(duration)).toEqual([
    '0 ms',
    '850 ms',
    '12 s',
    '3 min 20 s',
    '2 h 5 min',
    '1 d 1 h',
  ])
  expect([200, 12_000, 3_700_000, -90_000].map(relative)).toEqual([
    'just now',
    '12 s ago',
    '1 h ago',
    'in 1 min',
  ])
})

test('lengths of time are read as people type them', () => {
  expect(['90s', '10 min', '2h30m', '1d', '250ms', '1.5h'].map((text) => parseDuration(text, '--x'))).toEqual(
    [90_000, 600_000, 9_000_000, 86_400_000, 250, 5_400_000],
  )
  for (const wrong of ['', 'soon', '5', '5 parsecs', '-3s', '3s later']) {
    expect(() => parseDuration(wrong, '--x'), wrong).toThrow('is no length of time')
  }
})

test('moments are read with their zone, or relative to the given clock', () => {
  const now = new Date('2026-11-21T22:00:00Z')
  const read = (text: string): string => parseMoment(text, '--x', now).toISOString()
  expect(read('2026-11-21T23:00:00+01:00')).toBe('2026-11-21T22:00:00.000Z')
  expect(read('2026-11-22')).toBe('2026-11-22T00:00:00.000Z')
  expect(read('+10min')).toBe('2026-11-21T22:10:00.000Z')
  expect(read('2h30m')).toBe('2026-11-22T00:30:00.000Z')
  expect(() => read('2026-11-21T23:00:00')).toThrow('does not say in which time zone')
  for (const wrong of ['tomorrow', '2026-13-40', '12:00', '+3']) {
    expect(() => read(wrong), wrong).toThrow(/is no (moment|length of time)/)
  }
})

test('a piped table has aligned columns, whole cells and one line for each row', () => {
  const rows = [
    ['1', 'a long title\nwith a break', null],
    ['200', 'short', 1234],
  ]
  expect(table(piped, ['ID', 'TITLE', 'N'], rows)).toBe(
    [
      'ID   TITLE                          N',
      '1    a long title\\nwith a break     -',
      '200  short                       1234',
    ].join('\n'),
  )
})

test('a table on a terminal is cut to its width', () => {
  const lines = table(narrow, ['ID', 'TEXT'], [['1', 'x'.repeat(100)]]).split('\n')
  for (const line of lines) expect(line.length).toBeLessThanOrEqual(40)
  expect(lines[1]).toMatch(/…$/)
})

test('facts are a name and a value to a line', () => {
  expect(
    facts(piped, [
      ['a', '1'],
      ['longer', null],
    ]),
  ).toBe('a       1\nlonger  -')
})

test('log lines of a daemon become one readable line, anything else stays as it is', () => {
  const line = JSON.stringify({
    level: 'warn',
    time: '2026-11-21T22:34:01.123Z',
    name: 'runner',
    pid: 7,
    taskId: '12',
    why: 'two words\u001b',
    msg: 'lease lost',
  })
  expect(readableLine(piped, line)).toBe('22:34:01.123 warn  lease lost  taskId=12 why="two words\\u001b"')
  expect(readableLine(piped, '{"not":"a log line"}')).toBe('{"not":"a log line"}')
  expect(readableLine(piped, 'plain \u001b[2J')).toBe('plain \\e[2J')
})
