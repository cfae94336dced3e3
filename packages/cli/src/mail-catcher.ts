/**
 * A mail server for development: takes what the monitor sends and puts it into a folder, so that mails can be seen on a
 * machine without one. Loopback only, accepts anything, delivers nothing.
 *
 * Used by `leasehold start` when SMTP_HOST is not set. Production sets SMTP_HOST.
 */
import { writeFileSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { SMTPServer } from 'smtp-server'

/** A running catcher. */
export interface MailCatcher {
  readonly port: number
  stop(): Promise<void>
}

/** Starts it on a free port. `caught` is called with the subject and the file of each mail. */
export async function catchMail(
  folder: string,
  caught: (subject: string, file: string) => void,
): Promise<MailCatcher> {
  await mkdir(folder, { recursive: true })
  let count = 0
  const server = new SMTPServer({
    authOptional: true,
    disabledCommands: ['STARTTLS'],
    logger: false,
    onData(stream, _session, done) {
      const chunks: Buffer[] = []
      stream.on('data', (chunk: Buffer) => chunks.push(chunk))
      stream.on('end', () => {
        const mail = Buffer.concat(chunks)
        const name = `${new Date().toISOString().replaceAll(/[:.]/g, '-')}-${++count}.eml`
        const file = join(folder, name)
        try {
          writeFileSync(file, mail)
          caught(subjectOf(mail.toString('utf8')), file)
          done()
        } catch (error) {
          done(error as Error)
        }
      })
    },
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(0, '127.0.0.1', resolve)
  })
  // A client that breaks off is no reason to end.
  server.on('error', () => {})
  const address = server.server.address()
  if (address === null || typeof address === 'string') throw new Error('the mail catcher has no port')
  return {
    port: address.port,
    stop: () => new Promise((resolve) => server.close(() => resolve())),
  }
}

function subjectOf(mail: string): string {
  const head = mail.split(/\r?\n\r?\n/, 1)[0] ?? ''
  return (
    /^subject: *(.*(?:\r?\n[ \t].*)*)/im.exec(head)?.[1]?.replaceAll(/\r?\n[ \t]+/g, ' ') ?? '(no subject)'
  )
}
