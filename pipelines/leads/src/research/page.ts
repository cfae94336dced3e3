/**
 * Reads an HTML page into the facts the pipeline uses: its lines of text, its links and hosts, its published addresses, its JSON-LD.
 *
 * A page is hostile input: it is read as a stream of tags without building a tree, in time linear in its length, with bounded depth
 * and lists; tree builders take minutes for a megabyte of `<div>`. Broken JSON-LD is left out.
 * It draws no conclusions; those are pms.ts, icp.ts and contacts/people.ts. Fetching is @leasehold/stages.
 */
import { Parser, type Handler } from 'htmlparser2'
import { MAX_TEXT } from '../discovery/company-row.ts'

/** A link of the page: its absolute http(s) address and what it says. */
export type Link = { readonly href: string; readonly text: string }

/** What a page says. `lines` are the texts of its blocks in reading order; `text` is their beginning, at most 8,000 characters. */
export type PageFacts = {
  readonly url: string
  readonly title: string | null
  readonly lines: readonly string[]
  readonly text: string
  readonly links: readonly Link[]
  /** Hosts of links, scripts, frames, forms and images. */
  readonly hosts: ReadonlySet<string>
  /** Addresses of `mailto:` links and in the text, in lower case. */
  readonly emails: readonly string[]
  readonly phones: readonly string[]
  /** The objects of JSON-LD blocks, `@graph` and lists flattened. */
  readonly jsonLd: readonly Readonly<Record<string, unknown>>[]
}

const MAX_LINES = 4_000
const MAX_LINKS = 1_000
const MAX_OBJECTS = 500
const MAX_BLOCK = 200_000

const MAX_DEPTH = 512
const SLICE = 16_384

const SILENT: ReadonlySet<string> = new Set(
  'script style noscript template svg iframe object title textarea select'.split(' '),
)
const INLINE: ReadonlySet<string> = new Set(
  'a abbr b bdi bdo cite code data dfn em font i img kbd label mark q s samp small span strike strong sub sup time u var wbr'.split(
    ' ',
  ),
)
const LOCAL = /[\w.!#$%&'*+/=?^`{|}~-]{1,64}$/
const DOMAIN = /^(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,24}/i

/** Reads `html` as fetched from `url`. */
export function readPage(url: string, html: string): PageFacts {
  const reader = createReader(url)
  const parser = new Parser(reader)
  // In slices, so that a hostile depth is noticed before a megabyte of it is on the parser's stack.
  for (let at = 0; at < html.length && reader.depth() < MAX_DEPTH; at += SLICE)
    parser.write(html.slice(at, at + SLICE))
  parser.end()
  const { title, lines, links, hosts, emails, phones, jsonLd } = reader.finish()
  const text = lines.join('\n')
  for (const address of addressesIn(text)) emails.add(address)
  return {
    url,
    title,
    lines,
    text: text.slice(0, MAX_TEXT),
    links,
    hosts,
    emails: [...emails].filter(isUsefulAddress).slice(0, 100),
    phones: [...phones].slice(0, 100),
    jsonLd,
  }
}

type Found = {
  title: string | null
  readonly lines: string[]
  readonly links: Link[]
  readonly hosts: Set<string>
  readonly emails: Set<string>
  readonly phones: Set<string>
  readonly jsonLd: Record<string, unknown>[]
}

type Reader = Pick<Handler, 'onopentag' | 'ontext' | 'onclosetag'> & { depth(): number; finish(): Found }

/** The events of the parser, turned into facts as they come; nothing of the tree is kept. */
function createReader(url: string): Reader {
  const found: Found = {
    title: null,
    lines: [],
    links: [],
    hosts: new Set(),
    emails: new Set(),
    phones: new Set(),
    jsonLd: [],
  }
  let depth = 0
  let line = ''
  /** The silent element we are in, how deep it began, and its text when somebody wants it. */
  let silent: { name: string; depth: number; text: string; wanted: boolean } | null = null
  let anchor: { href: string; text: string } | null = null
  const endLine = () => {
    const text = tidy(line)
    if (text !== '' && found.lines.length < MAX_LINES) found.lines.push(text)
    line = ''
  }
  const endAnchor = () => {
    if (anchor !== null && found.links.length < MAX_LINKS)
      found.links.push({ href: anchor.href, text: tidy(anchor.text).slice(0, 200) })
    anchor = null
  }
  return {
    depth: () => depth,
    onopentag(name, attribs) {
      depth++
      const href = noteTarget(url, attribs, found)
      if (name === 'a' && href !== null) {
        endAnchor()
        anchor = { href, text: '' }
      }
      if (silent !== null) return
      if (SILENT.has(name)) {
        const wanted = name === 'title' || (name === 'script' && /ld\+json/i.test(attribs['type'] ?? ''))
        silent = { name, depth, text: '', wanted }
      } else if (!INLINE.has(name)) endLine()
    },
    ontext(text) {
      if (silent === null) {
        line += text
        if (anchor !== null && anchor.text.length < 1_000) anchor.text += text
      } else if (silent.wanted && silent.text.length < MAX_BLOCK) silent.text += text
    },
    onclosetag(name) {
      if (name === 'a') endAnchor()
      if (silent !== null && silent.depth === depth) {
        if (silent.name === 'title') found.title ??= tidy(silent.text).slice(0, 300) || null
        else if (silent.wanted) readJsonLd(silent.text, found.jsonLd)
        silent = null
      } else if (silent === null && !INLINE.has(name)) endLine()
      depth--
    },
    finish() {
      endAnchor()
      endLine()
      return found
    },
  }
}

function tidy(text: string): string {
  return text.replaceAll(/\s+/g, ' ').trim()
}

/** Notes what an element points at; gives back the absolute address when it is an http(s) one. */
function noteTarget(base: string, attribs: Readonly<Record<string, string>>, found: Found): string | null {
  const target = attribs['href'] ?? attribs['src'] ?? attribs['action'] ?? attribs['data-src']
  if (target === undefined || target.length > 2048) return null
  const scheme = /^\s*(mailto|tel):([^?]*)/i.exec(target)
  if (scheme !== null) {
    const value = decode(scheme[2] ?? '').trim()
    if (scheme[1]?.toLowerCase() === 'tel') found.phones.add(value.slice(0, 50))
    else for (const address of addressesIn(value)) found.emails.add(address)
    return null
  }
  const url = URL.parse(target, base)
  if (url === null || (url.protocol !== 'http:' && url.protocol !== 'https:')) return null
  if (found.hosts.size < MAX_LINKS) found.hosts.add(url.hostname)
  url.hash = ''
  return url.href
}

function readJsonLd(text: string, into: Record<string, unknown>[]): void {
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch {
    // Broken JSON-LD says nothing; the rest of the page still does.
    return
  }
  const stack: unknown[] = [parsed]
  while (stack.length > 0 && into.length < MAX_OBJECTS) {
    const value = stack.pop()
    if (Array.isArray(value)) {
      for (const item of value.slice(0, MAX_OBJECTS).toReversed()) stack.push(item)
    } else if (isRecord(value)) {
      if (value['@type'] !== undefined) into.push(value)
      for (const inner of Object.values(value).toReversed()) {
        if (typeof inner === 'object' && inner !== null) stack.push(inner)
      }
    }
  }
}

/** Whether `value` is an object with string keys (no list, not null). */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    // A stray percent sign: the text as it stands.
    return text
  }
}

/**
 * The addresses in a text, in lower case. Goes from @ to @ and looks a bounded way to both sides: one pattern over the whole
 * text begins anew at each letter and took 3 s for a megabyte of `a.a.a.`.
 */
function* addressesIn(text: string): Generator<string, void, void> {
  let from = 0
  for (let at = text.indexOf('@'); at !== -1; at = text.indexOf('@', at + 1)) {
    const local = LOCAL.exec(text.slice(Math.max(from, at - 64), at))?.[0]
    const domain = local === undefined ? undefined : DOMAIN.exec(text.slice(at + 1, at + 255))?.[0]
    if (domain === undefined) continue
    yield `${local}@${domain}`.toLowerCase()
    from = at + 1 + domain.length
  }
}

/** `logo@2x.png` and the placeholders of site builders look like addresses. */
function isUsefulAddress(address: string): boolean {
  return (
    !/\.(?:png|jpe?g|gif|svg|webp|css|js)$/.test(address) &&
    !/@(?:sentry\.|.*wixpress\.com$|domain\.com$|email\.com$)/.test(address)
  )
}
