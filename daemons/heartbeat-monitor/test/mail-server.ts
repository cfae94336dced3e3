/**
 * A real SMTP server on loopback that tests read their mail from, take away, and put back on the same port.
 */
import { EventEmitter, once } from 'node:events'
import type { Socket } from 'node:net'
import PostalMime, { type Email } from 'postal-mime'
import { SMTPServer } from 'smtp-server'
import { keepablePort } from '../../../test/harness/loopback.ts'

/** How the server treats mail: takes it, refuses every recipient, never answers, or takes it and hangs up without a word. */
export type Manner = 'accepts' | 'refuses' | 'hangs' | 'swallows'

/** The server, and what it was given. */
export class MailServer {
  port = 0
  manner: Manner = 'accepts'
  /** Addresses it refuses while it takes the mail for others. */
  readonly unknown = new Set<string>()
  readonly mails: Email[] = []
  /** The names that logged in. */
  readonly logins: string[] = []
  /** For each attempt, whether it came encrypted. */
  readonly encrypted: boolean[] = []
  /** How often somebody wanted to hand over a mail. */
  attempts = 0
  private readonly events = new EventEmitter()
  private readonly sockets = new Set<Socket>()
  private server: SMTPServer | null = null
  private readonly startTls: boolean

  /** With `startTls` it offers encryption by a certificate that nobody signed. */
  constructor(options: { startTls?: boolean } = {}) {
    this.startTls = options.startTls ?? false
  }

  /** Starts it; after `stop`, on the same port. */
  async start(): Promise<this> {
    const server = new SMTPServer({
      authOptional: true,
      disabledCommands: this.startTls ? [] : ['STARTTLS'],
      closeTimeout: 10,
      onAuth: ({ username }, _session, done) => {
        this.logins.push(username ?? '')
        done(null, { user: username })
      },
      onMailFrom: (_address, session, done) => {
        this.encrypted.push(session.secure)
        this.attempts += 1
        this.events.emit('attempt')
        // Hanging is not calling back.
        if (this.manner !== 'hangs') done()
      },
      onRcptTo: ({ address }, _session, done) => {
        const refused = this.manner === 'refuses' || this.unknown.has(address)
        done(refused ? Object.assign(new Error('no such mailbox here'), { responseCode: 550 }) : null)
      },
      onData: (stream, _session, done) => {
        void this.receive(stream, done)
      },
    })
    server.on('error', () => {})
    server.server.on('connection', (socket: Socket) => {
      this.sockets.add(socket)
      socket.once('close', () => this.sockets.delete(socket))
    })
    if (this.port === 0) this.port = await keepablePort()
    server.listen(this.port, '127.0.0.1')
    await once(server.server, 'listening')
    this.server = server
    return this
  }

  private async receive(stream: AsyncIterable<Buffer>, done: (error?: Error) => void): Promise<void> {
    const chunks: Buffer[] = []
    try {
      for await (const chunk of stream) chunks.push(chunk)
      this.mails.push(await PostalMime.parse(Buffer.concat(chunks)))
    } catch {
      done(new Error('that was no mail'))
      return
    }
    this.events.emit('mail')
    if (this.manner === 'swallows') for (const socket of this.sockets) socket.destroy()
    else done()
  }

  /** Cuts every connection and listens no more. */
  async stop(): Promise<void> {
    const { server } = this
    if (server === null) return
    this.server = null
    for (const socket of this.sockets) socket.destroy()
    await new Promise<void>((closed) => server.close(() => closed()))
  }

  /** The n-th mail (from 1), as soon as it has come. */
  async mail(n: number): Promise<Email> {
    for (;;) {
      const mail = this.mails[n - 1]
      if (mail !== undefined) return mail
      await once(this.events, 'mail')
    }
  }

  /** Resolves when there were n attempts in all. */
  async attempted(n: number): Promise<void> {
    while (this.attempts < n) await once(this.events, 'attempt')
  }
}
