/**
 * A company as a source describes it, before anything is researched, and the identity by which two rows are the same one.
 *
 * Invariant: `domain` is a registrable domain (`acme.co.uk`, never `www.acme.co.uk`) that belongs to the company itself, or null;
 * a page on a social network or a free mailbox is nobody's domain. Texts are trimmed, free of control characters and bounded.
 * Mapping a directory's columns to these fields is discovery/company-row.ts.
 */
import { createHash } from 'node:crypto'
import { domainToASCII } from 'node:url'
import { parse } from 'tldts'
import { canonicalCity, fold } from './places.ts'

/** What a source said about one company. Empty is null. `extra` holds the columns nobody knows, by their header. */
export type Company = {
  readonly name: string
  readonly domain: string | null
  readonly website: string | null
  readonly city: string | null
  readonly state: string | null
  readonly country: string | null
  readonly industry: string | null
  readonly description: string | null
  readonly phone: string | null
  readonly email: string | null
  readonly employees: number | null
  readonly pms: string | null
  readonly contactName: string | null
  readonly contactTitle: string | null
  readonly extra: Readonly<Record<string, string>>
}

/** Hosts where many companies have a page; the host says nothing about who they are. */
const SHARED_HOSTS: ReadonlySet<string> = new Set(
  (
    'facebook.com fb.com fb.me instagram.com twitter.com x.com linkedin.com youtube.com youtu.be tiktok.com pinterest.com yelp.com ' +
    'google.com goo.gl g.page bing.com apple.com amazon.com airbnb.com vrbo.com booking.com expedia.com tripadvisor.com zillow.com ' +
    'realtor.com apartments.com crunchbase.com wikipedia.org yellowpages.com bbb.org linktr.ee bit.ly t.co whatsapp.com wa.me ' +
    'etsy.com ebay.com medium.com patreon.com nextdoor.com foursquare.com mapquest.com'
  ).split(' '),
)

/** Providers of free mailboxes; an address there says nothing about the company's domain. */
const FREE_MAIL: ReadonlySet<string> = new Set(
  (
    'gmail.com googlemail.com yahoo.com yahoo.co.uk ymail.com hotmail.com hotmail.co.uk outlook.com live.com msn.com aol.com icloud.com ' +
    'me.com mac.com comcast.net att.net sbcglobal.net verizon.net cox.net charter.net bellsouth.net earthlink.net gmx.com gmx.de web.de ' +
    'mail.com protonmail.com proton.me zoho.com yandex.ru mail.ru qq.com 163.com'
  ).split(' '),
)

/** Top-level names reserved for examples and tests: they never resolve, but sample data uses them. */
const RESERVED_SUFFIXES: ReadonlySet<string> = new Set(['example', 'test', 'invalid'])

/**
 * The registrable domain in `text` (a host, an address with scheme, an e-mail address), in ASCII and lower case.
 * Null when there is none: an address by number, an unknown top-level name, a host shared by many companies.
 */
export function registrableDomain(text: string): string | null {
  const first = text.trim().split(/[\s,;|]+/, 1)[0] ?? ''
  if (first === '' || first.length > 2048) return null
  const parsed = parse(first, { allowPrivateDomains: true })
  if (parsed.domain === null || parsed.publicSuffix === null) return null
  const listed = parsed.isIcann === true || parsed.isPrivate === true
  if (!listed && !RESERVED_SUFFIXES.has(parsed.publicSuffix)) return null
  const ascii = domainToASCII(parsed.domain)
  if (ascii === '' || ascii.length > 253 || SHARED_HOSTS.has(ascii)) return null
  return /^[a-z0-9-]+(\.[a-z0-9-]+)+$/.test(ascii) ? ascii : null
}

/** The domain of an e-mail address when the company owns it; null for free mailboxes and for what is no address. */
export function mailDomain(email: string): string | null {
  const at = email.lastIndexOf('@')
  if (at <= 0) return null
  const domain = registrableDomain(email.slice(at + 1))
  return domain === null || FREE_MAIL.has(domain) ? null : domain
}

/**
 * The address to fetch for a company's website cell: with a scheme, http(s) only, without user, password or fragment.
 * Null when the cell is no address or names a host shared by many.
 */
export function websiteAddress(text: string): string | null {
  const first = text.trim().split(/[\s,;|]+/, 1)[0] ?? ''
  if (first === '' || registrableDomain(first) === null) return null
  const url = URL.parse(/^[a-z][a-z0-9+.-]*:\/\//i.test(first) ? first : `https://${first}`)
  if (url === null || (url.protocol !== 'http:' && url.protocol !== 'https:')) return null
  url.username = ''
  url.password = ''
  url.hash = ''
  return url.href
}

const LEGAL_FORMS =
  /\b(?:incorporated|inc|llc|l l c|llp|lp|ltd|limited|corporation|corp|company|co|plc|gmbh|ag|kg|sa|s a|srl|sarl|bv|nv|oy|ab|as|pty|pte)\b/g

const MAX_IDENTITY = 256

/** A company's name without case, accents, punctuation, legal form and leading article. */
export function canonicalName(name: string): string {
  const folded = fold(name.replaceAll('&', ' and '))
  const bare = folded.replaceAll(LEGAL_FORMS, ' ').replaceAll(/\s+/g, ' ').trim().replace(/^the /, '')
  return bare === '' ? folded : bare
}

/**
 * The key by which two rows are one company: the registrable domain, else the canonical name and city.
 * Unique per run in the database (`companies_are_unique_in_a_run`).
 */
export function identityOf(company: Pick<Company, 'name' | 'domain' | 'city'>): string {
  const city = company.city === null ? '' : canonicalCity(company.city)
  const identity =
    company.domain !== null ? `domain:${company.domain}` : `name:${canonicalName(company.name)}|${city}`
  // An index entry has a limit of its own, and some letters become eighteen when they are folded.
  if (identity.length <= MAX_IDENTITY) return identity
  return `${identity.slice(0, MAX_IDENTITY / 2).toWellFormed()}#${createHash('sha256').update(identity).digest('hex')}`
}
