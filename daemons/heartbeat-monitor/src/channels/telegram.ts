/**
 * The channel Telegram: a delivery as one message of a bot (Bot API, sendMessage).
 *
 * Invariant: one delivery is one message; what is longer than Telegram takes is cut and says where the rest is. The text
 * is sent without markup, so nothing in it can be taken for any. The token is part of the address and never shown.
 * Protocol: https://core.telegram.org/bots/api#making-requests
 */
import { oneLine } from '../plain-text.ts'
import { type Channel, DeliveryError } from './channel.ts'
import { exchange } from './http-exchange.ts'

/** A bot and whom it writes to. */
export interface TelegramSettings {
  readonly token: string
  /** A number, or `@name` of a channel. */
  readonly chatId: string
  /** Where the Bot API is; another one only for a local server or a test. */
  readonly baseUrl: string
}

const maxCharacters = 4_096
const maxAloneMs = 3_600_000

/** Opens the channel. */
export function telegramChannel(settings: TelegramSettings): Channel {
  const url = new URL(`${settings.baseUrl.replace(/\/+$/, '')}/bot${settings.token}/sendMessage`)
  return {
    name: 'telegram',
    async send({ subject, body }, signal) {
      const answer = await exchange(
        url,
        {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify({
            chat_id: settings.chatId,
            text: cut(`${subject}\n\n${body}`),
            link_preview_options: { is_disabled: true },
          }),
        },
        signal,
      )
      const said = parse(answer.text)
      if (answer.status === 200 && said.ok === true) return null
      throw failure(answer.status, said, answer.retryAfterMs, settings.token)
    },
  }
}

/** Telegram counts UTF-16 units, as JavaScript does; half a pair must not be left over. */
export function cut(text: string): string {
  if (text.length <= maxCharacters) return text
  const end = '\n\n… cut here; the rest: npx leasehold alerts list --full'
  return text.slice(0, maxCharacters - end.length).replace(/[\uD800-\uDBFF]$/, '') + end
}

interface Said {
  readonly ok?: unknown
  readonly description?: unknown
  readonly parameters?: { readonly retry_after?: unknown; readonly migrate_to_chat_id?: unknown } | null
}

function parse(text: string): Said {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null ? value : {}
  } catch {
    return {}
  }
}

function failure(status: number, said: Said, retryAfterMs: number | null, token: string): DeliveryError {
  const description =
    typeof said.description === 'string'
      ? oneLine(said.description.replaceAll(token, '***'), 300)
      : 'no reason'
  const moved = said.parameters?.migrate_to_chat_id
  const message = `Telegram answered ${status}: ${description}${typeof moved === 'number' ? `; the group's new chat id is ${moved}` : ''}`
  if (status === 429) {
    const asked = Number(said.parameters?.retry_after) * 1_000 || retryAfterMs
    return new DeliveryError(message, { aloneMs: asked === null ? null : Math.min(maxAloneMs, asked) })
  }
  // Wrong token, unknown chat, blocked bot: nobody but a person can mend these.
  return new DeliveryError(message, { refused: status >= 300 && status < 500 && status !== 408 })
}
