/**
 * One mail and one server: encryption, and an end to every delivery.
 */
import { expect, test } from 'vitest'
import { type Mail, type MailSettings, sendMail, transportOptions } from '../src/mailer.ts'
import { MailServer } from './mail-server.ts'

const mail: Mail = { subject: 'hello', body: 'there', alertIds: ['1'], createdAt: new Date() }
const login = { user: 'mailer', password: 'made up for this test' }

function settings(server: MailServer): MailSettings {
  return {
    host: '127.0.0.1',
    port: server.port,
    login,
    from: 'alerts@shop.example',
    to: ['ops@shop.example'],
  }
}

test('a server on this machine is spoken to in its own encryption, whoever signed it', async ({
  onTestFinished,
}) => {
  const server = await new MailServer({ startTls: true }).start()
  onTestFinished(() => server.stop())

  expect(await sendMail(settings(server), mail, new AbortController().signal)).toBeNull()

  expect(server.encrypted).toEqual([true])
  expect(server.mails).toHaveLength(1)
})

test('a password travels to another machine only encrypted, by a certificate that is checked', () => {
  const host = 'mail.shop.example'
  const remote = transportOptions({ host, port: 587, login, from: 'alerts@shop.example' })
  expect(remote).toMatchObject({ secure: false, requireTLS: true, tls: { rejectUnauthorized: true } })
  expect(transportOptions({ host, port: 465, login, from: 'alerts@shop.example' }).secure).toBe(true)
  expect(transportOptions({ host, port: 25, login: null, from: 'alerts@shop.example' }).requireTLS).toBe(
    false,
  )
})

test('a delivery that hangs ends when it is told to', async ({ onTestFinished }) => {
  const server = await new MailServer().start()
  onTestFinished(() => server.stop())
  server.manner = 'hangs'
  const stop = new AbortController()
  const delivery = sendMail(settings(server), mail, stop.signal)
  await server.attempted(1)

  stop.abort()

  await expect(delivery).rejects.toMatchObject({ doubtful: false, cause: { code: 'EABORT' } })
})
