/**
 * Turns one record of a directory into a company, by the column map.
 *
 * Everything is trimmed, freed of control characters and bounded, so that no cell can grow a row without limit. A record
 * that holds no company (no name, a NUL byte) is refused with a reason for the report; a bad cell only loses that cell.
 */
import { mailDomain, registrableDomain, websiteAddress, type Company } from '../company.ts'
import { splitLocation } from '../places.ts'
import type { Field } from './column-names.ts'
import type { ColumnMap } from './header.ts'

/** External text is cut here before it is stored or shown to a model. */
export const MAX_TEXT = 8_000
const MAX_SHORT = 300
const MAX_EXTRA = 1_000

/** Either the company or why the record holds none. */
export type RowReading = { readonly company: Company } | { readonly problem: string }

/** Reads a record which has the map's width. */
export function companyFromRecord(map: ColumnMap, record: readonly string[]): RowReading {
  for (const value of record) {
    if (value.includes('\u0000')) return { problem: 'holds a NUL byte' }
  }
  const raw = (field: Field): string => {
    const index = map.fields[field]
    return index === undefined ? '' : (record[index] ?? '')
  }
  const short = (field: Field): string | null => clean(raw(field), MAX_SHORT)

  const name = clean(raw('name'), MAX_TEXT)
  if (name === null) return { problem: 'has no company name' }
  if (name.length > MAX_SHORT) return { problem: `has a company name of ${name.length} characters` }

  const email = emailCell(raw('email'))
  const websiteCell = raw('website') || raw('domain')
  const domain =
    registrableDomain(raw('domain')) ??
    registrableDomain(raw('website')) ??
    (email === null ? null : mailDomain(email))
  const place = placeOf(short, clean(raw('location'), MAX_SHORT))
  return {
    company: {
      name,
      domain,
      website: websiteAddress(websiteCell) ?? (domain === null ? null : `https://${domain}/`),
      ...place,
      industry: short('industry'),
      description: clean(raw('description'), MAX_TEXT),
      phone: short('phone'),
      email,
      employees: employeesCell(raw('employees')),
      pms: short('pms'),
      contactName: short('contactName') ?? joinName(short('firstName'), short('lastName')),
      contactTitle: short('contactTitle'),
      extra: extraOf(map, record),
    },
  }
}

function placeOf(
  short: (field: Field) => string | null,
  location: string | null,
): Pick<Company, 'city' | 'state' | 'country'> {
  const city = short('city')
  const state = short('state')
  const country = short('country')
  // "Austin, TX" in the city column carries the state as well.
  const split =
    city !== null && city.includes(',') && state === null
      ? splitLocation(city)
      : city === null && location !== null
        ? splitLocation(location)
        : null
  if (split === null) return { city, state, country }
  return { city: split.city ?? city, state: state ?? split.state, country: country ?? split.country }
}

function extraOf(map: ColumnMap, record: readonly string[]): Record<string, string> {
  const extra: Record<string, string> = {}
  for (const { index, name } of map.extra) {
    const value = clean(record[index] ?? '', MAX_EXTRA)
    // Assigning `extra.__proto__` would be swallowed; a header can be named anything.
    if (value !== null)
      Object.defineProperty(extra, name, { value, enumerable: true, configurable: true, writable: true })
  }
  return extra
}

/** Trims, turns control characters into blanks and cuts to `max` characters, never inside one of two units; empty is null. */
function clean(value: string, max: number): string | null {
  const text = (/\p{Cc}/u.test(value) ? value.replaceAll(/\p{Cc}+/gu, ' ') : value).trim()
  if (text === '') return null
  if (text.length <= max) return text.toWellFormed()
  const end = /[\ud800-\udbff]/.test(text.charAt(max - 1)) ? max - 1 : max
  return text.slice(0, end).toWellFormed()
}

function emailCell(value: string): string | null {
  const first = value
    .trim()
    .replace(/^mailto:/i, '')
    .split(/[\s,;|<>]+/)
    .find((part) => part.includes('@'))
  if (first === undefined || first.length > 254 || !/^[^@]+@[^@]+\.[^@]+$/.test(first)) return null
  return /\p{Cc}/u.test(first) || !first.isWellFormed() ? null : first.toLowerCase()
}

/** `51-200` counts as 51, `1,000+` as 1000; what is no number is unknown. */
function employeesCell(value: string): number | null {
  const match = /\d{1,3}(?:[,.]\d{3})+(?!\d)|\d+/.exec(value)
  if (match === null) return null
  const count = Number.parseInt(match[0].replaceAll(/[,.]/g, ''), 10)
  return Number.isSafeInteger(count) && count <= 10_000_000 ? count : null
}

function joinName(first: string | null, last: string | null): string | null {
  if (first === null || last === null) return null
  return `${first} ${last}`
}
