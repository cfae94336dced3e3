/**
 * An alert: news in, one subject and one plain-text body out.
 *
 * Invariant: one message for any number of incidents, and of bounded size. The subject names the count.
 * The words for each kind are wording.ts; the mail around it (addresses, Message-ID) is mailer.ts.
 */
import { duration, moment, oneLine } from './plain-text.ts'
import type { News } from './policy.ts'
import type { Incident, IncidentKind } from './verbs.ts'
import { type Wording, wordings } from './wording.ts'

/** A message ready for the outbox. */
export interface Message {
  /** One line without control characters. */
  readonly subject: string
  readonly body: string
}

/** Who reports, for the last lines of the body. */
export interface Reporter {
  readonly database: string
  readonly host: string
  readonly pid: number
}

const maxSubject = 180
/** Incidents of one kind that are told in full; the rest is counted and left to the views. */
const maxTold = 50

/** Composes one message about all of `news`, as of the moment `at`. */
export function compose(news: News, reporter: Reporter, at: Date): Message {
  const kinds = Object.keys(wordings) as IncidentKind[]
  const sections = kinds.flatMap((kind) => section(kind, news.opened))
  if (news.resolved.length > 0) sections.push(resolvedSection(news.resolved))
  const from = `Heartbeat monitor on ${oneLine(reporter.host)}, pid ${reporter.pid}`
  const signature = `-- \n${from}\nDatabase ${oneLine(reporter.database)}, ${moment(at)}\n`
  return { subject: subject(kinds, news), body: `${sections.join('\n\n\n')}\n\n${signature}` }
}

function subject(kinds: readonly IncidentKind[], news: News): string {
  const parts = kinds.flatMap((kind) => {
    const incidents = ofKind(kind, news.opened)
    return incidents.length === 0 ? [] : [wordingOf(kind).headline(incidents)]
  })
  const [first] = news.resolved
  if (first !== undefined) {
    const what = news.resolved.length === 1 ? over(first) : `${news.resolved.length} incidents`
    parts.push(parts.length === 0 ? `resolved: ${what}` : `${news.resolved.length} resolved`)
  }
  return oneLine(`Leasehold: ${parts.join('; ')}`, maxSubject)
}

function section(kind: IncidentKind, opened: readonly Incident[]): string[] {
  const incidents = ofKind(kind, opened)
  if (incidents.length === 0) return []
  const wording = wordingOf(kind)
  const told = incidents.slice(0, maxTold).map((incident) => wording.describe(incident))
  const rest = incidents.length - told.length
  if (rest > 0) told.push(`… and ${rest} more: select * from leasehold.open_incidents;`)
  const next = wording.advice(incidents).map((line) => `  ${line}`)
  return [
    [`${capital(wording.headline(incidents))}.`, ...told, `What to do:\n${next.join('\n')}`].join('\n\n'),
  ]
}

function resolvedSection(resolved: readonly Incident[]): string {
  const told = resolved.slice(0, maxTold).map((incident) => {
    const openMs = Date.parse(incident.resolved_at ?? '') - Date.parse(incident.opened_at)
    return `  ${over(incident)} (after ${duration(openMs / 1_000)})`
  })
  const rest = resolved.length - told.length
  return ['Resolved:', ...told, ...(rest > 0 ? [`  … and ${rest} more`] : [])].join('\n')
}

function over(incident: Incident): string {
  return wordingOf(incident.kind).over(incident)
}

function ofKind(kind: IncidentKind, incidents: readonly Incident[]): readonly Incident[] {
  return incidents.filter((incident) => incident.kind === kind)
}

/** Here each incident meets the words of its own kind only, which the type of a table over a union cannot say. */
function wordingOf(kind: IncidentKind): Wording<IncidentKind> {
  return wordings[kind] as unknown as Wording<IncidentKind>
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1)
}
