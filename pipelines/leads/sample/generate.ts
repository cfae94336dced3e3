/**
 * Writes companies.csv, the made-up company directory that ships with the repository.
 *
 * Everything in it is invented by a seeded generator: the same seed gives the same bytes, which a test checks. All domains
 * end in `.example` and all phone numbers are 555-01xx, so that nobody can be reached by accident. It holds on purpose what real
 * directories hold: duplicates, malformed lines, companies of other kinds and places.
 * Run: node --conditions=development pipelines/leads/sample/generate.ts
 */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'

const SEED = 20_260_101
const ROWS = 360

const FIRST_WORDS = (
  'Bluebonnet Lone_Star Hill_Country Barton Pecan Cedar Live_Oak Limestone Capitol Riverbend Sunset Cypress Juniper Mesquite Prairie ' +
  'Northgate Westlake Southlamar Eastside Clearwater Ironwood Silver_Creek Red_River Stonebridge Fairview Maple Harbor Summit Granite Willow'
).split(' ')
const SECOND_WORDS =
  'Residential Homes Living Estates Communities Apartments Rentals Realty Housing Dwellings'.split(' ')
const PEOPLE_FIRST =
  'Avery Jordan Riley Morgan Casey Quinn Rowan Emerson Finley Harper Sage Tatum Reese Marlow Linden Ellis'.split(
    ' ',
  )
const PEOPLE_LAST =
  'Testerman Sampleton Fictor Madeup Placeholder Exampleson Mockford Demorest Inventado Fabler Dummond Specimen'.split(
    ' ',
  )
const TITLES = [
  'Owner',
  'President',
  'Founder',
  'Managing Broker',
  'Director of Operations',
  'Property Manager',
  'Office Manager',
]
const PLACES = [
  ['Austin', 'TX', 46],
  ['Dallas', 'TX', 10],
  ['Houston', 'TX', 10],
  ['San Antonio', 'TX', 8],
  ['Denver', 'CO', 8],
  ['Phoenix', 'AZ', 8],
  ['Tampa', 'FL', 5],
  ['Portland', 'OR', 5],
] as const
const SYSTEMS = [
  'AppFolio',
  'AppFolio',
  'AppFolio',
  'Buildium',
  'Buildium',
  'Yardi',
  'Rent Manager',
  'Propertyware',
  'Entrata',
  'ResMan',
]
const OTHER_KINDS = [
  ['Dental', 'Dental clinic', 'Family dentistry with two chairs.'],
  ['Bakery', 'Restaurants and food', 'Neighbourhood bakery and coffee.'],
  ['Law Office', 'Legal services', 'Small business and estate law.'],
  ['Hotel', 'Hospitality', 'Boutique hotel; reservations run on Cloudbeds.'],
  ['Roofing', 'Construction', 'Roof repair and replacement.'],
] as const

/** The header says that the rows are invented, since CSV knows no comments. */
const HEADER = [
  'company',
  'website',
  'city',
  'state',
  'country',
  'industry',
  'description',
  'employees',
  'phone',
  'email',
  'contact name',
  'contact title',
  'made up',
]

/** Mulberry32: small, seeded, the same on every machine. Returns numbers in [0, 1). */
function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}

/** The text of companies.csv. */
export function sampleDirectory(): string {
  const random = seeded(SEED)
  const pick = <T>(from: readonly T[]): T => {
    const chosen = from.at(Math.floor(random() * from.length))
    if (chosen === undefined) throw new Error('nothing to pick from')
    return chosen
  }
  const chance = (p: number) => random() < p
  const lines = [HEADER.join(',')]
  for (let i = 0; i < ROWS; i++) {
    lines.push(row(i, { pick, chance, random }))
    if (i % 71 === 70) lines.push(malformed(i))
    if (i % 19 === 18) lines.push(duplicateOf(lines.at(-1) ?? ''))
  }
  return `${lines.join('\n')}\n`
}

type Dice = { pick: <T>(from: readonly T[]) => T; chance: (p: number) => boolean; random: () => number }

function row(index: number, dice: Dice): string {
  const { pick, chance, random } = dice
  const [city, state] = place(random())
  const stem = `${pick(FIRST_WORDS).replace('_', ' ')} ${pick(SECOND_WORDS)}`
  const other = chance(0.15) ? pick(OTHER_KINDS) : null
  const name =
    other === null ? `${stem} ${chance(0.5) ? 'Property Management' : 'Management'}` : `${stem} ${other[0]}`
  const slug = `${stem.toLowerCase().replaceAll(' ', '-')}-${index}`
  const hasSite = !chance(0.08)
  const person = chance(0.6) ? `${pick(PEOPLE_FIRST)} ${pick(PEOPLE_LAST)}` : ''
  const units = 20 + Math.floor(random() * 1800)
  const system = chance(0.55)
    ? ` ${pick(['Residents pay through', 'Owners log in to', 'We run on'])} ${pick(SYSTEMS)}.`
    : ''
  const description =
    other?.[2] ??
    `${pick(['Full-service', 'Family-owned', 'Local'])} property management of ${units} ${pick(['units', 'rental homes', 'apartments'])}, ` +
      `"${pick(['no surprises', 'since 1998', 'owners first'])}".${system}`
  const cells = [
    index % 90 === 17
      ? `=HYPERLINK("https://${slug}.example")`
      : `${name}${pick([' LLC', ', Inc.', '', ''])}`,
    hasSite ? pick([`https://www.${slug}.example/`, `${slug}.example`, `http://${slug}.example`]) : '',
    city,
    chance(0.1) ? longState(state) : state,
    pick(['US', 'USA', 'United States']),
    other?.[1] ?? pick(['Real estate', 'Property management', 'Residential property management']),
    description,
    String(3 + Math.floor(random() * 120)),
    chance(0.8) ? `+1 512 555 01${String(Math.floor(random() * 100)).padStart(2, '0')}` : '',
    hasSite && chance(0.4) ? `office@${slug}.example` : '',
    person,
    person === '' ? '' : pick(TITLES),
    'yes',
  ]
  return cells.map(quote).join(',')
}

function place(roll: number): readonly [string, string] {
  let rest = roll * 100
  for (const [city, state, share] of PLACES) {
    rest -= share
    if (rest < 0) return [city, state]
  }
  return ['Austin', 'TX']
}

function longState(code: string): string {
  return { TX: 'Texas', CO: 'Colorado', AZ: 'Arizona', FL: 'Florida', OR: 'Oregon' }[code] ?? code
}

/** The same company again under another subdomain, as two exports merged into one leave it. */
function duplicateOf(line: string): string {
  return line.replace(/https:\/\/www\./, 'https://leasing.').replace(/^([^,"]*),/, '$1 Leasing Office,')
}

function malformed(index: number): string {
  const kinds = [
    `Cut Short Property Management,https://cut-short-${index}.example,Austin`,
    `"Open Quote Property Management,https://open-quote-${index}.example,Austin,TX,US,Property management,,5,,,,,yes`,
    `Shifted Property Management,https://shifted-${index}.example,Austin,TX,US,Property management,one,two,3,,,,,yes,extra`,
    `,https://no-name-${index}.example,Austin,TX,US,Property management,,5,,,,,yes`,
  ]
  return kinds[Math.floor(index / 71) % kinds.length] ?? ''
}

function quote(cell: string): string {
  return /[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell
}

if (import.meta.main) {
  await writeFile(join(import.meta.dirname, 'companies.csv'), sampleDirectory())
}
