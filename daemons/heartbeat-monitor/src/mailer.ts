/**
 * One mail, handed to one mail server, within a fixed time.
 *
 * Invariant: a delivery ends within `totalMs` whatever the server does (refuses, hangs, trickles), and the same alerts
 * always carry the same Message-ID, so that a mail which is sent twice is recognised. A password never travels in clear
 * text, except to this machine. When and how often is tried is outbox.ts.
 */
import { createHash } from 'node:crypto'
import type { SmtpConfig } from '@leasehold/service'
import { createTransport } from 'nodemailer'
import { Transform } from 'node:stream'
import { describeError } from '@leasehold/queue'
import { DeliveryError } from './channels/channel.ts'
import { oneLine } from './plain-text.ts'

/** The mail server, the sender and who is told. */
export interface MailSettings extends SmtpConfig {
  /** At least one address. */
  readonly to: readonly string[]
}

/** A message with what makes it recognisable. */
export interface Mail {
  readonly subject: string
  readonly body: string
  /** The alerts it carries, at least one. */
  readonly alertIds: readonly string[]
  /** When the first of them was written. */
  readonly createdAt: Date
}

const connectMs = 5_000
const totalMs = 20_000

/**
 * Sends a mail. Answers which recipients the server refused while it took the mail for others, or null.
 *
 * Throws {@link DeliveryError} when nobody was reached through this server: refused, timed out, `signal` aborted. It is
 * doubtful when all of the mail was handed over and no answer came; the server may have it then.
 */
export async function sendMail(
  settings: MailSettings,
  mail: Mail,
  signal: AbortSignal,
): Promise<string | null> {
  const transport = createTransport(transportOptions(settings))
  let handedOver = false
  // The body is read when the server asks for it, after it has taken sender and recipients; its end is the last of it.
  transport.use('stream', (outgoing, done) => {
    outgoing.message.transform(
      () =>
        new Transform({
          transform: (chunk, _encoding, pass) => pass(null, chunk),
          flush(pass) {
            handedOver = true
            pass()
          },
        }),
    )
    done()
  })
  try {
    const sent = await transport.sendMail({
      from: settings.from,
      to: [...settings.to],
      subject: oneLine(mail.subject),
      text: mail.body,
      messageId: messageId(mail, settings.from),
      date: new Date(),
      // Keeps holiday notices and other machines from answering.
      headers: { 'Auto-Submitted': 'auto-generated' },
      disableFileAccess: true,
      disableUrlAccess: true,
      signal: AbortSignal.any([signal, AbortSignal.timeout(totalMs)]),
    })
    const refused = sent.rejected.map((address) => oneLine(address))
    return refused.length === 0 ? null : `refused for ${refused.join(', ')}`
  } catch (cause) {
    // A code is an answer, and it says no.
    const answered = typeof cause === 'object' && cause !== null && 'responseCode' in cause
    throw new DeliveryError(describeError(cause).message, { doubtful: handedOver && !answered }, { cause })
  } finally {
    transport.close()
  }
}

/** How the server is spoken to; every phase has an end of its own, and `sendMail` the last word. */
export function transportOptions(settings: SmtpConfig): {
  readonly host: string
  readonly port: number
  readonly secure: boolean
  readonly requireTLS: boolean
  readonly tls: { readonly rejectUnauthorized: boolean }
  readonly connectionTimeout: number
  readonly dnsTimeout: number
  readonly greetingTimeout: number
  readonly socketTimeout: number
  readonly auth?: { readonly user: string; readonly pass: string }
} {
  const { host, port, login } = settings
  const local = isLoopback(host)
  return {
    host,
    port,
    secure: port === 465,
    requireTLS: login !== null && !local,
    // A mail server on this machine usually has a certificate which nobody signed, and no network to be heard on.
    tls: { rejectUnauthorized: !local },
    connectionTimeout: connectMs,
    dnsTimeout: connectMs,
    greetingTimeout: connectMs,
    socketTimeout: totalMs / 2,
    ...(login && { auth: { user: login.user, pass: login.password } }),
  }
}

/** The same for the same alerts, another for any other set: a bundle that grew must not be taken for a copy. */
export function messageId(mail: Pick<Mail, 'alertIds' | 'createdAt'>, from: string): string {
  const ids = mail.alertIds.join(',')
  const which =
    mail.alertIds.length === 1
      ? `alert-${ids}`
      : `alerts-${createHash('sha256').update(ids).digest('hex').slice(0, 16)}`
  const domain = /@([\w.-]+)>?\s*$/.exec(from)?.[1] ?? 'leasehold.invalid'
  return `<leasehold-${which}-${mail.createdAt.getTime()}@${domain}>`
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host)
}
