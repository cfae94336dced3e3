/**
 * The channel webhook: a delivery as JSON by POST, signed when there is a secret.
 *
 * Invariant: 2xx means taken; 429, 408 and 5xx are tried again; all else, redirects included, is refused for good: the
 * address is wrong, and what is told here must not wander to another host. The signature covers the exact bytes.
 */
import { createHmac } from 'node:crypto'
import { type Channel, DeliveryError, asJson, deliveryId } from './channel.ts'
import { exchange } from './http-exchange.ts'

/** Where to post, and what to sign with; a null secret signs nothing. */
export interface WebhookSettings {
  readonly url: string
  readonly secret: string | null
}

const maxAloneMs = 3_600_000

/** Opens the channel. */
export function webhookChannel(settings: WebhookSettings): Channel {
  const url = new URL(settings.url)
  return {
    name: 'webhook',
    async send(delivery, signal) {
      const body = asJson(delivery, new Date())
      const { status, retryAfterMs } = await exchange(
        url,
        {
          method: 'POST',
          headers: {
            'content-type': 'application/json; charset=utf-8',
            'x-leasehold-delivery': deliveryId(delivery).slice(0, 500),
            ...(settings.secret !== null && { 'x-leasehold-signature': signature(settings.secret, body) }),
          },
          body,
        },
        signal,
      )
      if (status >= 200 && status < 300) return null
      if (status === 429 || status === 408 || status >= 500)
        throw new DeliveryError(`the webhook answered ${status}`, {
          aloneMs: retryAfterMs === null ? null : Math.min(maxAloneMs, retryAfterMs),
        })
      const why = status >= 300 && status < 400 ? '; redirects are not followed, correct the address' : ''
      throw new DeliveryError(`the webhook answered ${status}${why}`, { refused: true })
    },
  }
}

/** `sha256=` and the HMAC of the body in hex, as GitHub's webhooks carry it. */
export function signature(secret: string, body: string): string {
  return `sha256=${createHmac('sha256', secret).update(body).digest('hex')}`
}
