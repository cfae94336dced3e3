/**
 * The way of an alert from its table to the mail server.
 *
 * Invariant: an alert leaves the table of unsent ones only when a server took it; until then a job to deliver it exists
 * in graphile-worker, and where one got lost `recoverDelivery` makes a new one. What could not be sent for a while goes
 * out together, as one mail. Nothing here runs inside a look of the monitor; writing alerts is look.ts.
 */
import { type Db, describeError, inTransaction } from '@leasehold/queue'
import type { Log } from './log.ts'
import { type Mail, type MailSettings, sendMail } from './mailer.ts'
import { moment, oneLine } from './plain-text.ts'
import {
  type ClaimedAlert,
  claimAlerts,
  deliveryOverdue,
  markFailed,
  markSent,
  openMailIncident,
} from './verbs.ts'

/** The name of the job, in a schema that other programs may use as well. */
export const deliveryJob = 'leasehold_deliver_alerts'

/** How a failed delivery is tried again: after `firstMs`, then twice as long each time, up to `maxMs`. */
export interface RetryPace {
  readonly firstMs: number
  readonly maxMs: number
}

/** Longer than a delivery may take (mailer.ts), so that a claim outlives its sender only when that died. */
const claimMs = 60_000
const triesUntilIncident = 3
const maxBundled = 100
const maxBundleCharacters = 200_000

/**
 * Asks graphile-worker for a delivery after `delayMs`. Part of the caller's transaction.
 *
 * One job serves the whole outbox: a job that waits is moved, one that runs is left alone and another one added.
 */
export async function requestDelivery(db: Db, delayMs: number): Promise<void> {
  await db.query(
    `select graphile_worker.add_job($1, job_key => $1, job_key_mode => 'replace', max_attempts => 100,
      run_at => clock_timestamp() + $2::float8 * interval '1 millisecond')`,
    [deliveryJob, delayMs],
  )
}

/**
 * Asks for a delivery when an alert has been due for `slackMs` and nobody has it in hand: its job died with its process,
 * or could not be made when it was written. A slack leaves the job that stands its time.
 */
export async function recoverDelivery(db: Db, slackMs: number = claimMs / 2): Promise<void> {
  if (await deliveryOverdue(db, slackMs)) await requestDelivery(db, 0)
}

/**
 * Takes what is unsent and sends it as one mail; the job's body. Does nothing when nothing is unsent.
 *
 * A failure of the mail server is not thrown: the alerts go back with the error, a job for the next try stands, and from
 * the third try on the incident `mail_undeliverable` is open. Throws when the database fails; the job is then retried.
 */
export async function deliver(
  db: Db,
  settings: MailSettings,
  pace: RetryPace,
  log: Log,
  signal: AbortSignal,
): Promise<void> {
  const alerts = await claimAlerts(db, claimMs, maxBundled)
  if (alerts.length === 0) return
  const ids = alerts.map((alert) => alert.id)
  let remark: string | null
  try {
    remark = await sendMail(settings, bundle(alerts), signal)
  } catch (error) {
    const tries = Math.max(...alerts.map((alert) => alert.tries))
    const delayMs = retryDelay(tries, pace)
    const reason = oneLine(describeError(error).message, 500)
    await inTransaction(db, async (tx) => {
      await markFailed(tx, ids, reason, delayMs)
      if (tries >= triesUntilIncident) await openMailIncident(tx, tries, reason)
      await requestDelivery(tx, delayMs)
    })
    log.warn({ event: 'mail.failed', alerts: ids.length, tries, retryInMs: delayMs, reason }, 'mail failed')
    return
  }
  await markSent(db, ids, remark)
  log.info({ event: 'mail.sent', alerts: ids.length, ...(remark !== null && { remark }) }, 'mail sent')
  if (alerts.length === maxBundled) await requestDelivery(db, 0)
}

/** Doubles from try to try, with up to a quarter more so that several installations do not knock together. */
function retryDelay(tries: number, pace: RetryPace): number {
  const exact = Math.min(pace.maxMs, pace.firstMs * 2 ** Math.min(tries - 1, 30))
  return Math.round(Math.min(pace.maxMs, exact * (1 + Math.random() / 4)))
}

/** One alert as it is; several as one mail that tells them in order. */
export function bundle(alerts: readonly ClaimedAlert[]): Mail {
  const first = alerts[0]
  if (first === undefined) throw new Error('a mail carries at least one alert')
  const facts = { alertIds: alerts.map((alert) => alert.id), createdAt: first.created_at }
  if (alerts.length === 1) return { ...facts, subject: first.subject, body: first.body }
  const newest = alerts.at(-1) ?? first
  const failed = Math.max(...alerts.map((alert) => alert.tries)) - 1
  const why =
    failed > 0 ? ` They could not be sent before; ${failed} ${failed === 1 ? 'try' : 'tries'} failed.` : ''
  const parts = [`${alerts.length} alerts since ${moment(first.created_at)}.${why}\n`]
  let room = maxBundleCharacters
  for (const alert of alerts) {
    room -= alert.body.length
    const body = room > 0 ? alert.body : 'The text is in leasehold.alerts.\n'
    parts.push(`${'='.repeat(72)}\n${moment(alert.created_at)}  ${alert.subject}\n\n${body}`)
  }
  return {
    ...facts,
    subject: `Leasehold: ${alerts.length} alerts${failed > 0 ? ' held back' : ''}; last: ${newest.subject.replace(/^Leasehold: /, '')}`,
    body: parts.join('\n'),
  }
}
