/**
 * From settings to channels: which ways to tell people this process has. Where they lead is each channel's own file.
 */
import type { MailSettings } from '../mailer.ts'
import type { Channel } from './channel.ts'
import { type CommandSettings, commandChannel } from './command.ts'
import { emailChannel } from './email.ts'
import { type TelegramSettings, telegramChannel } from './telegram.ts'
import { type WebhookSettings, webhookChannel } from './webhook.ts'

/** What each channel needs; null or absent: this process cannot send there. */
export interface ChannelSettings {
  readonly smtp: MailSettings | null
  readonly telegram?: TelegramSettings | null
  readonly webhook?: WebhookSettings | null
  readonly command?: CommandSettings | null
}

/** Opens every channel that is configured; none holds a connection while nothing is sent. */
export function openChannels(settings: ChannelSettings): Channel[] {
  const { smtp, telegram, webhook, command } = settings
  return [
    ...(smtp === null || smtp.to.length === 0 ? [] : [emailChannel(smtp)]),
    ...(telegram ? [telegramChannel(telegram)] : []),
    ...(webhook ? [webhookChannel(webhook)] : []),
    ...(command ? [commandChannel(command)] : []),
  ]
}
