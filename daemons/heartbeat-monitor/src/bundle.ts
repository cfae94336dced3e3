/**
 * Messages of the outbox on their way out: one as it is, several as one that tells them in order.
 *
 * Invariant: a delivery has a bounded size; a message that does not fit keeps its subject.
 */
import type { DeliveredIncident } from './channels/channel.ts'
import { moment } from './plain-text.ts'

/** A message that was taken from the outbox to be sent. `tries` counts this one. */
export interface ClaimedMessage {
  readonly id: string
  readonly purpose: string
  readonly subject: string
  /** Null: it was not read, since no delivery has room for it. */
  readonly body: string | null
  readonly created_at: Date
  readonly tries: number
  readonly incidents: readonly DeliveredIncident[] | null
  readonly transmission: string
}

const maxBundleCharacters = 200_000

/** One subject and one body for all of them; there is at least one. */
export function bundle(
  messages: readonly Pick<ClaimedMessage, 'subject' | 'body' | 'created_at' | 'tries'>[],
): { readonly subject: string; readonly body: string } {
  const first = messages[0]
  const newest = messages.at(-1)
  if (first === undefined || newest === undefined) throw new Error('a delivery carries at least one message')
  const elsewhere = 'The text is in leasehold.alerts.\n'
  if (messages.length === 1) return { subject: first.subject, body: first.body ?? elsewhere }
  const failed = Math.max(...messages.map((message) => message.tries)) - 1
  const why =
    failed > 0 ? ` They could not be sent before; ${failed} ${failed === 1 ? 'try' : 'tries'} failed.` : ''
  const parts = [`${messages.length} alerts since ${moment(first.created_at)}.${why}\n`]
  let room = maxBundleCharacters
  for (const { subject, body, created_at: at } of messages) {
    room -= body?.length ?? 0
    const text = body !== null && room > 0 ? body : elsewhere
    parts.push(`${'='.repeat(72)}\n${moment(at)}  ${subject}\n\n${text}`)
  }
  return {
    subject: `Leasehold: ${messages.length} alerts${failed > 0 ? ' held back' : ''}; last: ${newest.subject.replace(/^Leasehold: /, '')}`,
    body: parts.join('\n'),
  }
}
