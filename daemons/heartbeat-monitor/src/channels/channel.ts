/**
 * What a channel is: something that takes a delivery within a bounded time, or says why not and whether to try again.
 *
 * Invariant: a channel holds its address and secrets itself; no error it throws repeats a secret. What waits, for how
 * long and how often is tried is ../outbox.ts.
 */
import type { AlertChannel } from '@leasehold/queue'

/** What happened, as programs read it. */
export interface DeliveredIncident {
  readonly id: string
  readonly kind: string
  readonly subject: string
  readonly summary: string
  readonly opened_at: string
  readonly resolved_at: string | null
}

/** A message of the outbox. */
export interface DeliveredAlert {
  readonly id: string
  readonly purpose: string
  readonly subject: string
  readonly createdAt: Date
  readonly incidents: readonly DeliveredIncident[]
}

/** What is handed over at once: one message, or several as one. */
export interface Delivery {
  readonly subject: string
  readonly body: string
  /** At least one. */
  readonly alerts: readonly DeliveredAlert[]
  readonly database: string
}

/** One way to tell people. */
export interface Channel {
  readonly name: AlertChannel
  /**
   * Hands a delivery over. Answers a remark about what went only partly well, or null.
   *
   * Throws {@link DeliveryError} or any other error when it was not taken; another error means: try again.
   */
  send(delivery: Delivery, signal: AbortSignal): Promise<string | null>
}

/** It was not taken. */
export class DeliveryError extends Error {
  /** Trying again cannot help: somebody has to correct a setting. */
  readonly refused: boolean
  /** The other side wants to be left alone for so long; null: it did not say. */
  readonly aloneMs: number | null
  /** Everything was handed over and no answer came: it may have been taken. */
  readonly doubtful: boolean

  constructor(
    message: string,
    facts: { readonly refused?: boolean; readonly aloneMs?: number | null; readonly doubtful?: boolean } = {},
    options?: ErrorOptions,
  ) {
    super(message, options)
    this.name = 'DeliveryError'
    this.refused = facts.refused ?? false
    this.aloneMs = facts.aloneMs ?? null
    this.doubtful = facts.doubtful ?? false
  }
}

/** The same for the same messages, so that a receiver recognises a copy. */
export function deliveryId(delivery: Delivery): string {
  return delivery.alerts.map((alert) => `${alert.id}-${alert.createdAt.getTime()}`).join('.')
}

/** A delivery for programs: what webhooks get and commands read. */
export function asJson(delivery: Delivery, sentAt: Date): string {
  return JSON.stringify({
    subject: delivery.subject,
    text: delivery.body,
    database: delivery.database,
    sent_at: sentAt.toISOString(),
    alerts: delivery.alerts.map(({ id, purpose, subject, createdAt, incidents }) => ({
      id,
      purpose,
      subject,
      created_at: createdAt.toISOString(),
      incidents,
    })),
  })
}
