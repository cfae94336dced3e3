/**
 * Finds the contacts of one company: who decides there, and at which address, verified as far as possible.
 *
 * Sources in order of trust: the directory's own contact, the site's people, a model, the site's general mailboxes, and as the last resort
 * the mailbox most companies have, called a guess. An address that is certainly wrong is never returned. It writes nothing.
 * Throws ModelBusyError when the model should be asked later, and the signal's reason when the attempt is over.
 */
import type { Model, Web } from '@leasehold/stages'
import type { Company } from '../company.ts'
import { readPage } from '../research/page.ts'
import type { SiteFacts } from '../research/research.ts'
import {
  candidatesFor,
  guessedRoleAddress,
  patternInUse,
  roleAddresses,
  type AddressBasis,
  type AddressCandidate,
} from './addresses.ts'
import { peopleByModel } from './by-model.ts'
import { decisionRank, findPeople, personName, type Person } from './people.ts'
import type { Verification, Verify } from './verify.ts'

/** What finding contacts needs. */
export type ContactTools = { readonly web: Web | null; readonly model: Model | null; readonly verify: Verify }

/** A way to reach somebody at the company. `name` is null for a general mailbox. */
export type Contact = {
  readonly name: string | null
  readonly title: string | null
  /** How much the person decides, 0–100 (people.ts). */
  readonly rank: number
  readonly source: Person['source'] | 'mailbox'
  readonly email: string
  readonly basis: AddressBasis
  readonly status: 'valid' | 'unknown'
  readonly reason: string
}

/** The contacts, best first, and what was not available. */
export type ContactFinding = { readonly contacts: readonly Contact[]; readonly notes: readonly string[] }

const MAX_PEOPLE = 5
const MAX_TEXT = 12_000

/** Finds the contacts of `company`, starting from what research read of its site. */
export async function findContacts(
  tools: ContactTools,
  company: Company,
  site: SiteFacts | null,
  signal: AbortSignal,
): Promise<ContactFinding> {
  const notes: string[] = []
  const read = await readPeoplePages(tools.web, site, signal)
  if (read.unread > 0) notes.push(`${read.unread} of its pages about people could not be read`)
  const advice = await peopleByModel(tools.model, company.name, read.text, signal)
  if (advice.note !== null) notes.push(advice.note)
  const people = distinct([
    ...directoryPerson(company),
    ...(site?.people ?? []),
    ...read.people,
    ...(advice.value ?? []),
  ])
  const published = [
    ...new Set([...(company.email === null ? [] : [company.email]), ...(site?.emails ?? []), ...read.emails]),
  ]
  const contacts = await reachable(tools.verify, company, people, published, signal)
  if (contacts.length === 0)
    notes.push(people.length === 0 ? 'nobody was found' : 'no address of anybody found can be right')
  else if (contacts.every((contact) => contact.status === 'unknown'))
    notes.push(`not verified: ${contacts[0]?.reason}`)
  return { contacts, notes }
}

async function readPeoplePages(
  web: Web | null,
  site: SiteFacts | null,
  signal: AbortSignal,
): Promise<{ people: Person[]; emails: string[]; text: string; unread: number }> {
  const result = { people: [] as Person[], emails: [] as string[], text: '', unread: 0 }
  if (web === null || site === null) return result
  for (const url of site.peoplePages) {
    const outcome = await web.page(url, { signal })
    if (outcome.outcome !== 'ok') {
      result.unread++
      continue
    }
    const page = readPage(outcome.url, outcome.text)
    result.people.push(...findPeople(page))
    result.emails.push(...page.emails)
    result.text = `${result.text}\n${page.text}`.slice(0, MAX_TEXT)
  }
  return result
}

function directoryPerson(company: Company): Person[] {
  if (company.contactName === null) return []
  const name = personName(company.contactName) ?? company.contactName
  return [{ name, title: company.contactTitle, email: null, source: 'directory' }]
}

/** Each name once, keeping what any source added; those who decide most first, the directory's contact before its equals. */
function distinct(people: readonly Person[]): Person[] {
  const byName = new Map<string, Person>()
  for (const person of people) {
    const key = person.name.toLowerCase()
    const known = byName.get(key)
    if (known === undefined) byName.set(key, person)
    else byName.set(key, { ...known, title: known.title ?? person.title, email: known.email ?? person.email })
  }
  return [...byName.values()].toSorted((a, b) => rankOf(b) - rankOf(a)).slice(0, MAX_PEOPLE)
}

function rankOf(person: Person): number {
  return decisionRank(person.title) + (person.source === 'directory' ? 5 : 0)
}

async function reachable(
  verify: Verify,
  company: Company,
  people: readonly Person[],
  published: readonly string[],
  signal: AbortSignal,
): Promise<Contact[]> {
  const pattern = patternInUse(people, published)
  const contacts: Contact[] = []
  const taken = new Set<string>()
  const add = (person: Person | null, candidate: AddressCandidate, verdict: Verification) => {
    if (verdict.status === 'invalid' || taken.has(candidate.address)) return false
    taken.add(candidate.address)
    contacts.push({
      name: person?.name ?? null,
      title: person?.title ?? null,
      rank: person === null ? 0 : decisionRank(person.title),
      source: person?.source ?? 'mailbox',
      email: candidate.address,
      basis: candidate.address === company.email ? 'directory' : candidate.basis,
      status: verdict.status,
      reason: verdict.reason,
    })
    return true
  }
  for (const person of people) {
    for (const candidate of candidatesFor(person, company.domain, published, pattern)) {
      if (add(person, candidate, await verify(candidate.address, signal))) break
    }
  }
  const mailboxes = [
    ...(company.email === null ? [] : [{ address: company.email, basis: 'directory' } as const]),
    ...roleAddresses(company.domain, published),
  ]
  for (const candidate of mailboxes) add(null, candidate, await verify(candidate.address, signal))
  if (contacts.length === 0 && company.domain !== null) {
    const guess = guessedRoleAddress(company.domain)
    add(null, guess, await verify(guess.address, signal))
  }
  return contacts
}
