/**
 * The rule for clock changes, by example, and then against an independent computation over two years: every quarter's
 * clock reading is asked of Intl and matched by hand-written predicates, without croner and without our own arithmetic.
 */
import { expect, test } from 'vitest'
import { firingsBetween, lastFiring, localTime, nextFirings, parseTiming, remarkOn } from '../src/index.ts'

const timing = (cron: string, zone: string) => parseTiming({ cron, everyMs: null, zone })

function firingsOn(expression: string, zone: string, from: string, to: string): string[] {
  const found = firingsBetween(timing(expression, zone), new Date(from), new Date(to), 1_000)
  return found.map((at) => localTime(zone, at).slice(8))
}

// London: 2027-03-28 01:00 → 02:00, 2027-10-31 02:00 → 01:00. New York: 2027-03-14 02:00 → 03:00, 2027-11-07
// 02:00 → 01:00. Lord Howe, half an hour: 2027-10-03 02:00 → 02:30, 2027-04-04 02:00 → 01:30.
test.each([
  [
    '30 1 * * *',
    'Europe/London',
    '2027-03-27T00:00Z',
    '2027-03-29T12:00Z',
    ['27 01:30:00 +00:00', '28 02:30:00 +01:00', '29 01:30:00 +01:00'],
  ],
  [
    '30 1 * * *',
    'Europe/London',
    '2027-10-30T12:00Z',
    '2027-11-01T12:00Z',
    ['31 01:30:00 +01:00', '01 01:30:00 +00:00'],
  ],
  [
    '30 2 * * *',
    'America/New_York',
    '2027-03-13T12:00Z',
    '2027-03-15T12:00Z',
    ['14 03:30:00 -04:00', '15 02:30:00 -04:00'],
  ],
  [
    '30 1 * * *',
    'America/New_York',
    '2027-11-06T12:00Z',
    '2027-11-08T12:00Z',
    ['07 01:30:00 -04:00', '08 01:30:00 -05:00'],
  ],
  [
    '15 2 * * *',
    'Australia/Lord_Howe',
    '2027-10-02T00:00Z',
    '2027-10-04T00:00Z',
    ['03 02:45:00 +11:00', '04 02:15:00 +11:00'],
  ],
  [
    '45 1 * * *',
    'Australia/Lord_Howe',
    '2027-04-03T00:00Z',
    '2027-04-05T00:00Z',
    ['04 01:45:00 +11:00', '05 01:45:00 +10:30'],
  ],
  // Both the skipped time and the one it falls onto are named: one firing, and in order.
  [
    '0,30 2,3 * * *',
    'America/New_York',
    '2027-03-14T06:00Z',
    '2027-03-14T08:00Z',
    ['14 03:00:00 -04:00', '14 03:30:00 -04:00'],
  ],
  // Every hour: what clocks show.
  [
    '30 * * * *',
    'America/New_York',
    '2027-03-14T06:00Z',
    '2027-03-14T08:00Z',
    ['14 01:30:00 -05:00', '14 03:30:00 -04:00'],
  ],
  [
    '30 * * * *',
    'America/New_York',
    '2027-11-07T05:00Z',
    '2027-11-07T07:00Z',
    ['07 01:30:00 -04:00', '07 01:30:00 -05:00'],
  ],
  [
    '0 * * * *',
    'Australia/Lord_Howe',
    '2027-10-02T14:00Z',
    '2027-10-02T17:00Z',
    ['03 01:00:00 +10:30', '03 03:00:00 +11:00', '03 04:00:00 +11:00'],
  ],
  [
    '*/15 * * * *',
    'Australia/Lord_Howe',
    '2027-04-03T14:25Z',
    '2027-04-03T15:35Z',
    [
      '04 01:30:00 +11:00',
      '04 01:45:00 +11:00',
      '04 01:30:00 +10:30',
      '04 01:45:00 +10:30',
      '04 02:00:00 +10:30',
    ],
  ],
] as const)('%s in %s from %s', (expression, zone, from, to, expected) => {
  expect(firingsOn(expression, zone, from, to)).toEqual(expected)
})

test('a day that a zone leaves out altogether fires with the day after it', () => {
  // Samoa went from 29 to 31 December 2011.
  expect(firingsOn('0 9 * * *', 'Pacific/Apia', '2011-12-29T00:00Z', '2011-12-31T12:00Z')).toEqual([
    '29 09:00:00 -10:00',
    '31 09:00:00 +14:00',
  ])
})

test('what is unusual about a moment is said', () => {
  const newYork = timing('30 2 * * *', 'America/New_York')
  expect(remarkOn(newYork, new Date('2027-03-14T07:30:00Z'))).toBe(
    '02:30 is skipped by the clocks that day: it fires 03:30',
  )
  expect(remarkOn(newYork, new Date('2027-03-15T06:30:00Z'))).toBeNull()
  const early = timing('30 1 * * *', 'America/New_York')
  expect(remarkOn(early, new Date('2027-11-07T05:30:00Z'))).toMatch(/twice: it fires the first time/)
  const hourly = timing('30 * * * *', 'America/New_York')
  expect(remarkOn(hourly, new Date('2027-11-07T05:30:00Z'))).toMatch(/first of two/)
  expect(remarkOn(hourly, new Date('2027-11-07T06:30:00Z'))).toMatch(/second of two/)
  expect(remarkOn(hourly, new Date('2027-11-07T07:30:00Z'))).toBeNull()
})

const from = Date.UTC(2026, 11, 1)
const to = Date.UTC(2028, 11, 1)
const quarterMs = 900_000
const twoDays = 2 * 96

/** What clocks show at each quarter of an hour, as quarters since `from`; asked of Intl. */
function readings(zone: string): number[] {
  const format = new Intl.DateTimeFormat('sv-SE', { timeZone: zone, dateStyle: 'short', timeStyle: 'medium' })
  return Array.from({ length: (to - from) / quarterMs }, (_, quarter) => {
    const local = Date.parse(`${format.format(from + quarter * quarterMs).replace(' ', 'T')}Z`)
    return (local - from) / quarterMs
  })
}

/** The rule, written a second time: from a table of what clocks show, quarter by quarter. */
function expectedFirings(shown: number[], everyHour: boolean, matches: (clock: Date) => boolean): number[] {
  const matching = (reading: number): boolean => matches(new Date(from + reading * quarterMs))
  if (everyHour) return [...shown.keys()].filter((quarter) => matching(shown[quarter]!))
  const found = new Set<number>()
  let newest = shown[0]! - 1
  for (const [quarter, reading] of shown.entries()) {
    // Readings that were never shown before: this one, and those which the clocks jumped over just now.
    for (let fresh = newest + 1; fresh <= reading; fresh += 1) {
      if (matching(fresh)) found.add(quarter + (fresh === reading ? 0 : fresh - newest - 1))
    }
    newest = Math.max(newest, reading)
  }
  return [...found].toSorted((a, b) => a - b)
}

const zones = ['Europe/London', 'America/New_York', 'Australia/Lord_Howe', 'Africa/Casablanca']
const time = (clock: Date): string => clock.toISOString().slice(11, 16)
const expressions: [string, boolean, (clock: Date) => boolean][] = [
  ['30 * * * *', true, (c) => time(c).endsWith(':30')],
  ['*/15 0-23 * * SUN', true, (c) => c.getUTCDay() === 0],
  ['30 1 * * *', false, (c) => time(c) === '01:30'],
  ['15,45 1-3 * * *', false, (c) => /0[123]:[14]5/.test(time(c))],
  ['0 */2 * * *', false, (c) => /[02468]:00/.test(time(c))],
  ['30 2 * * 0', false, (c) => time(c) === '02:30' && c.getUTCDay() === 0],
  ['45 23 28-31 2,10 *', false, (c) => /-(02|10)-(28|29|30|31)T23:45/.test(c.toISOString())],
]

test.each(zones)(
  'two years in %s are what an independent computation says, each once and in order',
  (zone) => {
    const shown = readings(zone)
    // The first and last days are left out: what is shown beyond them is unknown to the table.
    const start = new Date(from + twoDays * quarterMs)
    const end = new Date(to - twoDays * quarterMs)
    for (const [expression, everyHour, matches] of expressions) {
      const expected = expectedFirings(shown, everyHour, matches).filter(
        (quarter) => quarter > twoDays && quarter <= shown.length - twoDays,
      )
      const found = firingsBetween(timing(expression, zone), start, end, Number.POSITIVE_INFINITY)
      expect(
        found.map((moment) => (moment.getTime() - from) / quarterMs),
        `${expression} in ${zone}`,
      ).toEqual(expected)
    }
  },
)

const changes = ['2027-03-13T22:00Z', '2027-10-02T10:00Z', '2027-10-30T22:00Z', '2027-04-03T10:00Z']

test.each(zones)('in %s the answer does not depend on where the question begins', (zone) => {
  for (const expression of [...expressions.map(([text]) => text), '*/10 * * * *', '* 1-2 * * *']) {
    const parsed = timing(expression, zone)
    for (const start of changes) {
      const all = nextFirings(parsed, new Date(start), 40)
      for (const [i, moment] of all.entries()) {
        const [next] = nextFirings(parsed, moment, 1)
        if (i + 1 < all.length)
          expect(next, `${expression} after ${moment.toISOString()}`).toEqual(all[i + 1])
        expect(lastFiring(parsed, new Date(moment.getTime() + 30_000)), expression).toEqual(moment)
      }
    }
  }
})
