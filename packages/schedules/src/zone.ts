/**
 * Time zones: how far a zone's clocks are from UTC at a moment, and which names there are.
 *
 * The zone data are Node's own (ICU); nothing here knows a rule by heart. Offsets are looked up once per quarter of an
 * hour, which is where every zone changes its clocks since 1972. What happens to a schedule then is firings.ts.
 */

const quarterMs = 900_000
const cacheLimit = 20_000

interface Zone {
  readonly format: Intl.DateTimeFormat
  readonly offsets: Map<number, number>
}

const zones = new Map<string, Zone>()

function zoneOf(name: string): Zone {
  let zone = zones.get(name)
  if (zone === undefined) {
    const format = new Intl.DateTimeFormat('en-US', {
      timeZone: name,
      hourCycle: 'h23',
      year: 'numeric',
      month: 'numeric',
      day: 'numeric',
      hour: 'numeric',
      minute: 'numeric',
      second: 'numeric',
    })
    zone = { format, offsets: new Map() }
    zones.set(name, zone)
  }
  return zone
}

/** How far local clocks are ahead of UTC at `atMs`, in milliseconds; behind is negative. */
export function offsetMs(name: string, atMs: number): number {
  const zone = zoneOf(name)
  const quarter = Math.floor(atMs / quarterMs)
  const known = zone.offsets.get(quarter)
  if (known !== undefined) return known
  const [month, day, year, hour, minute, second] = zone.format
    .format(quarter * quarterMs)
    .split(/\D+/)
    .map(Number)
  const local = Date.UTC(year!, month! - 1, day, hour, minute, second)
  const offset = local - quarter * quarterMs
  if (zone.offsets.size >= cacheLimit) zone.offsets.clear()
  zone.offsets.set(quarter, offset)
  return offset
}

/** `2027-03-28 02:30:00 +01:00`: what the clocks of the zone show, to the second. */
export function localTime(name: string, at: Date): string {
  const offset = offsetMs(name, at.getTime())
  const shown = new Date(at.getTime() + offset).toISOString().slice(0, 19).replace('T', ' ')
  const ahead = new Date(Math.abs(offset)).toISOString().slice(11, 16)
  return `${shown} ${offset < 0 ? '-' : '+'}${ahead}`
}

/** What is wrong with a zone's name, or null. Offsets such as +02:00 are refused: they have no clock changes to follow. */
export function zoneProblem(name: string): string | null {
  const known = /^[A-Za-z][A-Za-z0-9_+-]*(\/[A-Za-z0-9_+-]+)*$/.test(name) && isKnown(name)
  if (known) return null
  const near = nearNames(name)
  const hint = near.length > 0 ? `near names: ${near.join(', ')}` : 'an example is Europe/London'
  return `'${name.slice(0, 60)}' is no IANA time zone; ${hint}`
}

function isKnown(name: string): boolean {
  try {
    zoneOf(name)
    return true
  } catch {
    return false
  }
}

/** At most three names: those whose last part is meant, then those that differ in a few letters. */
function nearNames(name: string): string[] {
  const wanted = plain(name)
  if (wanted === '' || wanted.length > 60) return []
  const scored = ['UTC', ...Intl.supportedValuesOf('timeZone')].map((known) => {
    const whole = distance(wanted, plain(known))
    const city = distance(wanted, plain(known.slice(known.lastIndexOf('/') + 1)))
    return { known, off: Math.min(whole, city + 0.5) }
  })
  const limit = Math.max(2, wanted.length / 4)
  return scored
    .filter(({ off }) => off <= limit)
    .sort((a, b) => a.off - b.off || a.known.localeCompare(b.known))
    .slice(0, 3)
    .map(({ known }) => known)
}

function plain(name: string): string {
  return name.toLowerCase().replaceAll(/[^a-z/]/g, '')
}

/** Levenshtein's distance. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (const [i, left] of a.split('').entries()) {
    const next = [i + 1]
    for (const [j, right] of b.split('').entries()) {
      const replaced = row[j]! + (left === right ? 0 : 1)
      next.push(Math.min(replaced, row[j + 1]! + 1, next[j]! + 1))
    }
    row = next
  }
  return row.at(-1)!
}
