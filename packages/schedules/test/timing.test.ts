/**
 * What can be said as a timing, and that whatever cannot work is refused with the value and the reason.
 */
import { ConfigError } from '@leasehold/queue'
import { expect, test } from 'vitest'
import {
  countFirings,
  firingsBetween,
  lastFiring,
  localTime,
  nextFirings,
  parseTiming,
  readTiming,
} from '../src/index.ts'

const cron = (expression: string, zone = 'UTC') => parseTiming({ cron: expression, everyMs: null, zone })
const every = (everyMs: number, anchor?: Date) =>
  parseTiming({ cron: null, everyMs, zone: 'UTC', ...(anchor && { anchor }) })

function problemsOf(input: Parameters<typeof parseTiming>[0]): Record<string, string> {
  try {
    parseTiming(input)
  } catch (error) {
    if (error instanceof ConfigError)
      return Object.fromEntries(error.problems.map((p) => [p.name, p.problem]))
    throw error
  }
  return {}
}

const after = new Date('2027-01-01T00:00:00Z')
const shown = (dates: Date[]) => dates.map((date) => date.toISOString())

test.each([
  ['15 2 * * TUE-SAT', ['2027-01-01T02:15:00.000Z', '2027-01-02T02:15:00.000Z', '2027-01-05T02:15:00.000Z']],
  ['*/20 9-10 * * *', ['2027-01-01T09:00:00.000Z', '2027-01-01T09:20:00.000Z', '2027-01-01T09:40:00.000Z']],
  ['0 0 29 2 *', ['2028-02-29T00:00:00.000Z', '2032-02-29T00:00:00.000Z', '2036-02-29T00:00:00.000Z']],
  ['0 12 L * *', ['2027-01-31T12:00:00.000Z', '2027-02-28T12:00:00.000Z', '2027-03-31T12:00:00.000Z']],
  ['0 8 * * MON#1', ['2027-01-04T08:00:00.000Z', '2027-02-01T08:00:00.000Z', '2027-03-01T08:00:00.000Z']],
  // Day and weekday both given: either will do, as in cron.
  ['0 0 13 * FRI', ['2027-01-08T00:00:00.000Z', '2027-01-13T00:00:00.000Z', '2027-01-15T00:00:00.000Z']],
  ['@weekly', ['2027-01-03T00:00:00.000Z', '2027-01-10T00:00:00.000Z', '2027-01-17T00:00:00.000Z']],
  [
    '  59   23 31 12 * ',
    ['2027-12-31T23:59:00.000Z', '2028-12-31T23:59:00.000Z', '2029-12-31T23:59:00.000Z'],
  ],
])('%s names the moments that cron says', (expression, expected) => {
  expect(shown(nextFirings(cron(expression), after, 3))).toEqual(expected)
})

test('an interval counts from its anchor, whenever it is asked', () => {
  const quarter = every(900_000)
  expect(shown(nextFirings(quarter, new Date('2027-01-01T00:07:12.345Z'), 2))).toEqual([
    '2027-01-01T00:15:00.000Z',
    '2027-01-01T00:30:00.000Z',
  ])
  const odd = every(7 * 86_400_000, new Date('2026-11-23T06:00:00Z'))
  expect(shown(nextFirings(odd, after, 1))).toEqual(['2027-01-04T06:00:00.000Z'])
  expect(shown(nextFirings(odd, new Date('2026-11-01T00:00:00Z'), 1))).toEqual(['2026-11-02T06:00:00.000Z'])
})

test.each([
  ['99 9 * * *', /'99 9 \* \* \*' cannot be read: .*99/],
  ['0 24 * * *', /cannot be read: .*hour: 24/],
  ['0 0 30 2 *', /'0 0 30 2 \*' names a day that never comes/],
  ['0 0 31 4,6,9,11 *', /never comes/],
  ['* * * *', /has 4 fields; five are needed/],
  ['0 0 6 * * MON', /has 6 fields/],
  ['', /has 0 fields/],
  ['*/0 * * * *', /stepping/],
  ['5-1 * * * *', /larger/],
  ['@reboot', /not supported/],
  ['@fortnightly', /cannot be read/],
  ['2027-01-01T00:00:00', /has 1 fields/],
  ['0 0 * * BLURSDAY', /cannot be read/],
  // Croner: odd days and Mondays; cronie: Mondays that are odd days.
  ['0 0 */2 * MON', /two ways.*'0 0 1-31\/2 \* MON' for either, '0 0 \*\/2 \* \+MON' for both/],
  ['5 6 1,15 * */2', /two ways.*'5 6 1,15 \* 0-6\/2' for either, '5 6 1,15 \* \+0-6\/2' for both/],
  ['0 0 */1 * MON', /two ways/],
])('the expression %j is refused with the reason', (expression, reason) => {
  expect(problemsOf({ cron: expression, everyMs: null, zone: 'UTC' })['cron']).toMatch(reason)
})

test.each([
  ['Europe/Lodnon', 'Europe/London'],
  ['America/NewYork', 'America/New_York'],
  ['lord_howe', 'Australia/Lord_Howe'],
  ['London', 'Europe/London'],
])('the zone %s is refused and %s offered', (zone, near) => {
  expect(problemsOf({ cron: '0 0 * * *', everyMs: null, zone })['zone']).toContain(near)
})

test.each(['+02:00', '', 'Mars/Olympus', 'Europe/', "x'; --"])('the zone %j is refused', (zone) => {
  expect(problemsOf({ cron: '0 0 * * *', everyMs: null, zone })['zone']).toMatch(/is no IANA time zone/)
})

test('all problems are told at once, and one of expression and interval is needed', () => {
  expect(problemsOf({ cron: '61 * * * *', everyMs: null, zone: 'Nowhere' })).toEqual({
    zone: expect.any(String),
    cron: expect.any(String),
  })
  expect(problemsOf({ cron: null, everyMs: null, zone: 'UTC' })['cron']).toMatch(/one of the two/)
  expect(problemsOf({ cron: '* * * * *', everyMs: 60_000, zone: 'UTC' })['cron']).toMatch(/one of the two/)
})

test.each([0, -60_000, 999, 1_500, Number.NaN, 367 * 86_400_000])(
  'the interval %d ms is refused',
  (everyMs) => {
    expect(problemsOf({ cron: null, everyMs, zone: 'UTC' })['everyMs']).toMatch(/whole seconds/)
  },
)

test('years end without a gap', () => {
  const hourly = cron('30 * * * *', 'Pacific/Auckland')
  const found = firingsBetween(hourly, new Date('2027-12-31T09:00:00Z'), new Date('2027-12-31T13:00:00Z'), 10)
  expect(found.map((at) => localTime('Pacific/Auckland', at))).toEqual([
    '2027-12-31 22:30:00 +13:00',
    '2027-12-31 23:30:00 +13:00',
    '2028-01-01 00:30:00 +13:00',
    '2028-01-01 01:30:00 +13:00',
  ])
})

test('the latest firing is found however long ago it was, and firings are counted up to a limit', () => {
  const at = new Date('2027-06-15T12:00:00Z')
  expect(lastFiring(cron('0 12 * * *'), at)).toEqual(at)
  expect(lastFiring(cron('0 0 29 2 *'), at)).toEqual(new Date('2024-02-29T00:00:00Z'))
  expect(lastFiring(every(3_600_000), new Date('2027-06-15T12:59:59.999Z'))).toEqual(at)
  const day = new Date('2027-06-16T12:00:00Z')
  expect(countFirings(cron('0 * * * *'), at, day, 1_000)).toBe(24)
  expect(countFirings(cron('* * * * *'), at, day, 1_000)).toBeNull()
  expect(countFirings(every(1_000), at, day, 10)).toBe(86_400)
})

test('what an ambiguous expression could mean can be said in one way each, and one that is stored goes on as it did', () => {
  const odd = shown(nextFirings(cron('0 0 1-31/2 * MON'), after, 4))
  expect(odd.map((at) => at.slice(8, 10))).toEqual(['03', '04', '05', '07'])
  const both = shown(nextFirings(cron('0 0 */2 * +MON'), after, 2))
  expect(both.map((at) => at.slice(8, 10))).toEqual(['11', '25'])
  const stored = readTiming({ cron: '0 0 */2 * MON', everyMs: null, zone: 'UTC' })
  expect(shown(nextFirings(stored, after, 4))).toEqual(odd)
  expect(() => cron('0 0 ? * MON')).not.toThrow()
})
