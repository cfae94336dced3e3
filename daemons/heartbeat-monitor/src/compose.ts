/**
 * An alert: news in, one subject and one plain-text body out.
 *
 * Invariant: one message for any number of incidents, and of bounded size; the subject names the count. It has words for
 * every incident, also for kinds and details this program does not know: nothing that is stored can keep it silent.
 * The words for each kind are wording.ts; the daily digest is digest.ts; the mail around it is mailer.ts.
 */
import type { News } from './news.ts'
import { count, duration, moment, oneLine } from './plain-text.ts'
import type { Incident, IncidentKind } from './verbs.ts'
import { type Wording, unknownKind, wordings } from './wording.ts'

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
  const { opened, resolved, reminders = [] } = news
  const sections = byKind(opened).map((incidents) => section(incidents))
  if (reminders.length > 0) sections.push(remindersSection(reminders, at))
  if (resolved.length > 0) sections.push(resolvedSection(resolved))
  return {
    subject: subject(news),
    body: `${sections.join('\n\n\n')}\n\n${signature(reporter, at)}`,
  }
}

/** What is told when composing has failed: which incidents they are, why there are no words, and where to look. */
export function withoutWords({ opened, resolved, reminders = [] }: News, reason: string): Message {
  const lists = { open: opened, 'still open': reminders, over: resolved }
  const lines = Object.entries(lists).flatMap(([state, incidents]) =>
    incidents
      .slice(0, maxTold)
      .map(
        ({ id, kind, subject: about }) =>
          `  ${state}: ${oneLine(kind, 60)} ${oneLine(about)} (incident ${id})`,
      ),
  )
  const all = opened.length + resolved.length + reminders.length
  return {
    subject: `Leasehold: ${count(all, 'incident')} that could not be put into words`,
    body: [
      'Something in these incidents could not be put into words:',
      `  ${oneLine(reason, 500)}`,
      '',
      ...lines,
      ...(lines.length < all ? [`  … and ${all - lines.length} more`] : []),
      '',
      'What to do:',
      '  select * from leasehold.incidents order by id desc limit 100;',
      '',
    ].join('\n'),
  }
}

/** The last lines of every message. */
export function signature(reporter: Reporter, at: Date): string {
  const from = `Heartbeat monitor on ${oneLine(reporter.host)}, pid ${reporter.pid}`
  return `-- \n${from}\nDatabase ${oneLine(reporter.database)}, ${moment(at)}\n`
}

/** One list for each kind there is, in the order in which kinds are told. */
export function byKind(incidents: readonly Incident[]): Incident[][] {
  const known = Object.keys(wordings)
  const kinds = [...new Set<string>([...known, ...incidents.map((incident) => incident.kind)])]
  return kinds
    .map((kind) => incidents.filter((incident) => incident.kind === kind))
    .filter((list) => list.length > 0)
}

/** What these incidents of one kind are called. */
export function headline(incidents: readonly Incident[]): string {
  return worded(incidents, (wording) => wording.headline(incidents))
}

/** What to do about these incidents of one kind. */
export function advice(incidents: readonly Incident[]): string {
  const lines = worded(incidents, (wording) => wording.advice(incidents))
  return `What to do:\n${lines.map((line) => `  ${line}`).join('\n')}`
}

/** What is so again when this incident is over. */
export function over(incident: Incident): string {
  return worded([incident], (wording) => wording.over(incident))
}

/** How long an incident was open, up to its end or else up to `at`. */
export function openFor(incident: Incident, at: Date): string {
  const end = incident.resolved_at === null ? at.getTime() : Date.parse(incident.resolved_at)
  return duration((end - Date.parse(incident.opened_at)) / 1_000)
}

function subject({ opened, resolved, reminders = [] }: News): string {
  const parts = byKind(opened).map((incidents) =>
    incidents.every((incident) => incident.resolved_at !== null)
      ? `${headline(incidents)} (over again)`
      : headline(incidents),
  )
  if (reminders.length > 0) {
    const [first] = reminders
    const what = parts.length === 0 && reminders.length === 1 && first ? headline([first]) : null
    parts.push(what === null ? `${reminders.length} still open` : `still so: ${what}`)
  }
  const [first] = resolved
  if (first !== undefined) {
    const what = resolved.length === 1 ? over(first) : `${resolved.length} incidents`
    parts.push(parts.length === 0 ? `resolved: ${what}` : `${resolved.length} resolved`)
  }
  return oneLine(`Leasehold: ${parts.join('; ')}`, maxSubject)
}

function section(incidents: readonly Incident[]): string {
  const told = incidents.slice(0, maxTold).map((incident) => {
    const words = worded([incident], (wording) => wording.describe(incident))
    if (incident.resolved_at === null) return words
    return `${words}\n  ${'over'.padEnd(12)} since ${moment(incident.resolved_at)}: ${over(incident)}`
  })
  const rest = incidents.length - told.length
  if (rest > 0) told.push(`… and ${rest} more: select * from leasehold.open_incidents;`)
  return [`${capital(headline(incidents))}.`, ...told, advice(incidents)].join('\n\n')
}

function remindersSection(reminders: readonly Incident[], at: Date): string {
  const told = reminders
    .slice(0, maxTold)
    .map((incident) => `  ${headline([incident])} (for ${openFor(incident, at)})`)
  const rest = reminders.length - told.length
  const steps = byKind(reminders).map((incidents) => advice(incidents).replace(/^.*\n/, ''))
  return [
    'Still open, told before:',
    ...told,
    ...(rest > 0 ? [`  … and ${rest} more: select * from leasehold.open_incidents;`] : []),
    '\nWhat to do:',
    ...new Set(steps),
  ].join('\n')
}

function resolvedSection(resolved: readonly Incident[]): string {
  const told = resolved
    .slice(0, maxTold)
    .map(
      (incident) => `  ${over(incident)} (after ${openFor(incident, new Date(incident.resolved_at ?? 0))})`,
    )
  const rest = resolved.length - told.length
  return ['Resolved:', ...told, ...(rest > 0 ? [`  … and ${rest} more`] : [])].join('\n')
}

/** The words of the incidents' kind; the plain ones when the kind or its details are not what this program knows. */
function worded<T>(incidents: readonly Incident[], say: (wording: Wording<IncidentKind>) => T): T {
  const kind = incidents[0]?.kind
  const known = kind !== undefined && Object.hasOwn(wordings, kind) ? wordings[kind] : unknownKind
  try {
    // Here each incident meets the words of its own kind only, which the type of a table over a union cannot say.
    return say(known as unknown as Wording<IncidentKind>)
  } catch {
    return say(unknownKind)
  }
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1)
}
