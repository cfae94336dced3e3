/**
 * The channel e-mail: a delivery as one mail to all recipients. The mail and its server are ../mailer.ts.
 */
import { type MailSettings, sendMail } from '../mailer.ts'
import type { Channel } from './channel.ts'

/** Opens the channel. */
export function emailChannel(settings: MailSettings): Channel {
  return {
    name: 'email',
    send: ({ subject, body, alerts }, signal) => {
      const createdAt = alerts[0]?.createdAt ?? new Date()
      return sendMail(
        settings,
        { subject, body, alertIds: alerts.map((alert) => alert.id), createdAt },
        signal,
      )
    },
  }
}
