/**
 * Proposes e-mail addresses for the people of a company, and says what each proposal rests on.
 *
 * Published addresses come first; a guess by pattern is called a guess (`basis: 'pattern'`), and an address for nobody in
 * particular is called a role. Whether an address can receive mail is verify.ts; a guess never becomes a fact here.
 */
import { mailDomain } from '../company.ts'
import type { Person } from './people.ts'

/** What an address rests on: given by the directory or the page, guessed from a name, the common role mailbox, or named by a model. */
export type AddressBasis = 'directory' | 'published' | 'pattern' | 'role' | 'model'

/** A proposed address. */
export type AddressCandidate = { readonly address: string; readonly basis: AddressBasis }

/** How companies form addresses from names; `f` and `l` are initials. */
export type AddressPattern =
  'first.last' | 'first' | 'flast' | 'firstl' | 'firstlast' | 'f.last' | 'first_last' | 'last'

const PATTERNS: Readonly<Record<AddressPattern, (first: string, last: string) => string>> = {
  'first.last': (first, last) => `${first}.${last}`,
  first: (first) => first,
  flast: (first, last) => `${first.charAt(0)}${last}`,
  firstl: (first, last) => `${first}${last.charAt(0)}`,
  firstlast: (first, last) => `${first}${last}`,
  'f.last': (first, last) => `${first.charAt(0)}.${last}`,
  first_last: (first, last) => `${first}_${last}`,
  last: (_first, last) => last,
}

/** Most common first. */
const ORDER: readonly AddressPattern[] = [
  'first.last',
  'first',
  'flast',
  'firstl',
  'firstlast',
  'f.last',
  'first_last',
  'last',
]
const GUESSES = 3

/**
 * The addresses to try for `person`, best first, at most one published and three guesses. `published` holds the addresses the
 * company publishes, `pattern` the one its other people follow (see `patternInUse`). Without a domain only published ones are proposed.
 */
export function candidatesFor(
  person: Person,
  domain: string | null,
  published: readonly string[],
  pattern: AddressPattern | null,
): AddressCandidate[] {
  const candidates: AddressCandidate[] = []
  if (person.email !== null) {
    const basis =
      person.source === 'directory' ? 'directory' : person.source === 'model' ? 'model' : 'published'
    candidates.push({ address: person.email, basis })
  }
  const parts = nameParts(person.name)
  if (parts === null) return candidates
  const own = published.find((address) => matchingPattern(address, parts) !== null)
  if (own !== undefined && own !== person.email) candidates.push({ address: own, basis: 'published' })
  if (domain === null || candidates.some((c) => c.basis !== 'model')) return candidates
  const order = pattern === null ? ORDER : [pattern, ...ORDER.filter((name) => name !== pattern)]
  for (const name of order.slice(0, GUESSES)) {
    const address = `${PATTERNS[name](parts.first, parts.last)}@${domain}`
    if (!candidates.some((c) => c.address === address)) candidates.push({ address, basis: 'pattern' })
  }
  return candidates
}

/** The pattern by which a published address of one of `people` is formed; null when none gives it away. */
export function patternInUse(people: readonly Person[], published: readonly string[]): AddressPattern | null {
  for (const person of people) {
    const parts = nameParts(person.name)
    if (parts === null) continue
    for (const address of person.email === null ? published : [person.email, ...published]) {
      const pattern = matchingPattern(address, parts)
      if (pattern !== null) return pattern
    }
  }
  return null
}

/** Mailboxes that belong to a role (RFC 2142 and common use), not to a person. */
const ROLE =
  /^(?:info|office|contact|hello|sales|leasing|rentals?|admin|mail|team|support|enquiries|inquiries|reservations|frontdesk|reception)$/

/** The published addresses which are the company's own and nobody's in particular, most general first. */
export function roleAddresses(domain: string | null, published: readonly string[]): AddressCandidate[] {
  return published
    .filter((address) => (domain === null ? ROLE.test(localPart(address)) : mailDomain(address) === domain))
    .toSorted((a, b) => Number(ROLE.test(localPart(b))) - Number(ROLE.test(localPart(a))))
    .slice(0, 3)
    .map((address) => ({ address, basis: 'published' }) as const)
}

/** The mailbox most companies have though this one did not publish it: the last resort, and called so by its basis. */
export function guessedRoleAddress(domain: string): AddressCandidate {
  return { address: `info@${domain}`, basis: 'role' }
}

type NameParts = { readonly first: string; readonly last: string }

function nameParts(name: string): NameParts | null {
  const words = asciiName(name)
    .replaceAll(/["“”()][^"“”()]*["“”()]/g, ' ')
    .split(/\s+/)
    .map((word) => word.replaceAll(/[^a-z]/g, ''))
    .filter((word) => word !== '' && !/^(?:dr|mr|mrs|ms|jr|sr|ii|iii|iv)$/.test(word))
  const first = words[0]
  const last = words.at(-1)
  return first === undefined || last === undefined || words.length < 2 ? null : { first, last }
}

const SPELLED_OUT: Readonly<Record<string, string>> = {
  ß: 'ss',
  ø: 'o',
  æ: 'ae',
  œ: 'oe',
  ł: 'l',
  đ: 'd',
  þ: 'th',
  ð: 'd',
}

function asciiName(name: string): string {
  return name
    .toLowerCase()
    .replaceAll(/[ßøæœłđþð]/g, (letter) => SPELLED_OUT[letter] ?? letter)
    .normalize('NFKD')
    .replaceAll(/\p{M}+/gu, '')
}

function localPart(address: string): string {
  return address.slice(0, address.lastIndexOf('@')).toLowerCase()
}

function matchingPattern(address: string, parts: NameParts): AddressPattern | null {
  const local = localPart(address)
  return ORDER.find((name) => PATTERNS[name](parts.first, parts.last) === local) ?? null
}
