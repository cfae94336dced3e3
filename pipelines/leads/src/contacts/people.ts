/**
 * Finds people with their job titles on a page: schema.org Person objects first, then a name next to a title in the text.
 *
 * It prefers missing somebody to inventing somebody: a name needs a title beside it, and words that occur in headlines are no names.
 * Which of them decide is told by `decisionRank`; their addresses are addresses.ts.
 */
import { isRecord, type PageFacts } from '../research/page.ts'

/** A person of a company. `source` says where the name was found. */
export type Person = {
  readonly name: string
  readonly title: string | null
  readonly email: string | null
  readonly source: 'structured data' | 'page text' | 'directory' | 'model'
}

/** Job titles by how much their holders decide; the first that occurs in a title gives its rank. */
const RANKS: readonly (readonly [number, RegExp])[] = [
  [100, /\b(?:owners?|proprietor|(?:co-?\s?)?founders?|ceo|chief executive)\b/i],
  [95, /(?<!vice[ -])\bpresident\b/i],
  [
    90,
    /\b(?:principal|managing (?:partner|member|director|broker|principal)|broker[ /-]*owner|executive director)\b/i,
  ],
  [80, /\b(?:partner|coo|cfo|cto|cmo|chief [a-z]+ officer|designated broker|broker of record)\b/i],
  [70, /\b(?:vice[ -]president|evp|svp|vp|general manager|hotel manager|broker)\b/i],
  [60, /\b(?:director|head) of\b|\bdirector\b/i],
  [
    50,
    /\b(?:(?:property|portfolio|regional|operations|revenue|senior|community|asset) manager|controller)\b/i,
  ],
  [
    40,
    /\b(?:office|front office|business|leasing|marketing|sales|maintenance|accounting|account) manager\b|\bmanager\b/i,
  ],
]

/** How much a title lets its holder decide: 100 (owner) to 40 (manager); 0 for any other or none. */
export function decisionRank(title: string | null): number {
  if (title === null) return 0
  return RANKS.find(([, pattern]) => pattern.test(title))?.[0] ?? 0
}

const PARTICLE = '(?:de|la|del|della|da|di|dos|van|von|der|den|ter|bin|al|el|le|st\\.?)'
const CAPITALISED = "\\p{Lu}[\\p{L}'’-]+"
const CREDENTIAL = '(?:Jr|Sr|II|III|IV|CPM|MPM|RMP|RPM|CPA|MBA|Esq|ARM|PhD|CCIM|GRI|CRB|CAM|CMCA)\\.?'
const NAME = new RegExp(
  `^(?:(?:Dr|Mr|Mrs|Ms)\\.? )?(${CAPITALISED}(?: (?:\\p{Lu}\\.?|["“(]${CAPITALISED}["”)]|${PARTICLE}|${CAPITALISED})){1,4})(?:,? ${CREDENTIAL})*$`,
  'u',
)

const NO_NAME: ReadonlySet<string> = new Set(
  (
    'about account accounting address agent agents all and apartment apartments apply associates austin availability available avenue blog board ' +
    'book broker business call careers center city client clients collections commercial communities community company connect contact copyright ' +
    'corporate customer dallas department director directors drive email employee estate events executive experience family faq featured find first ' +
    'follow free friendly from full get group guest home homes hotel hours house housing how inc index inquiries investor investors join latest learn ' +
    'leadership leasing legal links listings living llc local location locations login maintenance make manage management manager map market marketing ' +
    'media meet member message mission more name new news office officer one online open operations our owner owners page partners pay people phone ' +
    'policy portal portfolio privacy professional properties property quality questions quick read real realty relations rent rental rentals request ' +
    'resident residential residents resources reviews road sales san schedule search senior service services show sign site social staff start state ' +
    'street submit suite support team tenant tenants terms testimonials texas the their this tour trust united vacation values view vision visit welcome ' +
    'what where who why with work you your president founder ceo coo cfo chief vice principal partner executive'
  ).split(' '),
)

/** The name in `text` when the whole of it is a person's name; null otherwise. */
export function personName(text: string): string | null {
  const calm = text === text.toUpperCase() ? capitalise(text) : text
  if (calm.length > 60) return null
  const name = NAME.exec(calm.trim())?.[1]
  if (name === undefined) return null
  const words = name.toLowerCase().split(/[ -]/)
  return words.some((word) => NO_NAME.has(word)) ? null : name
}

function capitalise(text: string): string {
  return text
    .toLowerCase()
    .replaceAll(/(^|[\s'’-])(\p{Ll})/gu, (_, before: string, letter: string) => before + letter.toUpperCase())
}

/** The people of a page, the ones who decide most first, each once. */
export function findPeople(page: PageFacts): Person[] {
  const people = new Map<string, Person>()
  const add = (person: Person) => {
    const key = person.name.toLowerCase()
    const known = people.get(key)
    if (known === undefined) people.set(key, person)
    else if (known.title === null && person.title !== null)
      people.set(key, { ...person, email: known.email ?? person.email })
  }
  for (const person of structuredPeople(page)) add(person)
  for (const person of writtenPeople(page.lines)) add(person)
  return [...people.values()].toSorted((a, b) => decisionRank(b.title) - decisionRank(a.title)).slice(0, 50)
}

function structuredPeople(page: PageFacts): Person[] {
  const people: Person[] = []
  for (const object of page.jsonLd) {
    const types = [object['@type']].flat()
    const name = object['name']
    if (!types.includes('Person') || typeof name !== 'string') continue
    const accepted = personName(name)
    if (accepted === null) continue
    const title = [object['jobTitle']].flat()[0]
    const titleText = isRecord(title) ? title['name'] : title
    const email = [object['email']].flat()[0]
    people.push({
      name: accepted,
      title: typeof titleText === 'string' ? titleText.trim().slice(0, 120) || null : null,
      email: typeof email === 'string' ? email.replace(/^mailto:/i, '').toLowerCase() : null,
      source: 'structured data',
    })
  }
  return people
}

/** A name beside a title: in the block above or below it, or in one line with it. */
function writtenPeople(lines: readonly string[]): Person[] {
  const people: Person[] = []
  const used = new Set<number>()
  const claim = (index: number, title: string): boolean => {
    const line = lines[index]
    if (line === undefined || used.has(index)) return false
    const name = personName(line)
    if (name === null) return false
    used.add(index)
    people.push({ name, title, email: null, source: 'page text' })
    return true
  }
  for (const [index, line] of lines.entries()) {
    const inline = inlinePerson(line)
    if (inline !== null) people.push(inline)
    else if (isTitle(line) && !claim(index - 1, line)) claim(index + 1, line)
  }
  return people
}

function isTitle(line: string): boolean {
  return line.length <= 80 && !/[.!?]$/.test(line) && /^\p{Lu}/u.test(line) && decisionRank(line) > 0
}

/** `Jane Doe, Owner`, `Jane Doe | Broker/Owner`, `Owner: Jane Doe`. */
function inlinePerson(line: string): Person | null {
  if (line.length > 140) return null
  const [left, right] = splitOnce(line, /\s*[,|–—:•]\s*|\s+-\s+/u)
  if (left === null || right === null) return null
  const name = personName(left)
  if (name !== null && isTitle(right)) return { name, title: right, email: null, source: 'page text' }
  const reversed = personName(right)
  if (reversed !== null && isTitle(left))
    return { name: reversed, title: left, email: null, source: 'page text' }
  return null
}

function splitOnce(line: string, separator: RegExp): [string | null, string | null] {
  const match = separator.exec(line)
  if (match === null) return [null, null]
  return [line.slice(0, match.index).trim(), line.slice(match.index + match[0].length).trim()]
}
