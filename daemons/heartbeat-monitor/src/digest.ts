/**
 * The daily digest: everything that was not told at once, short, as one message.
 *
 * Invariant: of bounded size, with exact counts; what is still open comes with what to do. Which news it tells is decided
 * in SQL (due_messages).
 */
import { type Message, type Reporter, advice, byKind, headline, openFor, over, signature } from './compose.ts'
import type { News } from './news.ts'
import { count, moment, oneLine } from './plain-text.ts'
import type { Incident } from './verbs.ts'

/** Lines for one kind; the rest is counted. */
const maxLines = 25

/** Composes the digest of `news`, as of the moment `at`. */
export function composeDigest(news: News, reporter: Reporter, at: Date): Message {
  const { opened, resolved, reminders = [] } = news
  const open = [...opened, ...reminders].filter((incident) => incident.resolved_at === null)
  const sections = byKind(opened).map((incidents) => section(incidents, at))
  if (reminders.length > 0)
    sections.push(
      list(`Still open, told before: ${reminders.length}.`, reminders, (incident) => line(incident, at)),
    )
  if (resolved.length > 0)
    sections.push(
      list(
        `Over again, told before: ${resolved.length}.`,
        resolved,
        (incident) => `  ${over(incident)} (after ${openFor(incident, at)})`,
      ),
    )
  const steps = byKind(open).map((incidents) => advice(incidents).replace(/^.*\n/, ''))
  if (steps.length > 0) sections.push(['What to do about what is open:', ...new Set(steps)].join('\n'))
  const first = 'What the alert policy did not tell at once (npx leasehold alerts policy).'
  return {
    subject: subject(news, open.length),
    body: `${[first, ...sections].join('\n\n')}\n\n${signature(reporter, at)}`,
  }
}

function subject({ opened, resolved, reminders = [] }: News, open: number): string {
  const parts = byKind(opened).map((incidents) => headline(incidents))
  if (reminders.length > 0) parts.push(`${reminders.length} still open`)
  if (resolved.length > 0) parts.push(`${resolved.length} resolved`)
  const total = count(opened.length, 'incident')
  return oneLine(`Leasehold digest: ${total}, ${open} open now: ${parts.join('; ')}`, 180)
}

function section(incidents: readonly Incident[], at: Date): string {
  return list(`${headline(incidents)}.`, incidents, (incident) => line(incident, at))
}

function list(heading: string, incidents: readonly Incident[], say: (incident: Incident) => string): string {
  const told = incidents.slice(0, maxLines).map(say)
  const rest = incidents.length - told.length
  return [
    heading,
    ...told,
    ...(rest > 0 ? [`  … and ${rest} more: select * from leasehold.incidents;`] : []),
  ].join('\n')
}

function line(incident: Incident, at: Date): string {
  const end =
    incident.resolved_at === null
      ? `OPEN for ${openFor(incident, at)}`
      : `over after ${openFor(incident, at)}`
  return `  ${moment(incident.opened_at)}  ${oneLine(incident.summary, 160)}: ${end}`
}
