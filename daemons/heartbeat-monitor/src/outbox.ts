/**
 * The way of a message from its table to a channel, with tries of its own for each channel.
 *
 * Invariant: a message leaves the table of unsent ones only when the other side took it; until then a job to deliver it
 * exists in graphile-worker, and where one got lost `recoverDelivery` makes a new one. What could not be sent for a while
 * goes out together, as one. A channel that is down holds up no other. Nothing here runs inside a look of the monitor.
 * A try that may have been taken although no answer came counts towards the day's cap (migrations/0019_alert_tries.sql);
 * so that nothing else does, a claim is marked just before it is handed over, and what came of it is noted as soon as the
 * database answers.
 */
import { retryDelayMs, sleep } from '@leasehold/postgres'
import { type AlertChannel, type Db, describeError, inTransaction } from '@leasehold/queue'
import { type ClaimedMessage, bundle } from './bundle.ts'
import { type Channel, type Delivery, DeliveryError } from './channels/channel.ts'
import type { Log } from './log.ts'
import { oneLine } from './plain-text.ts'
import { databaseFacts } from './verbs.ts'

/** The name of a channel's job, in a schema that other programs may use as well. */
export function deliveryJob(channel: AlertChannel): string {
  return `leasehold_deliver_${channel}`
}

/** How a failed delivery is tried again: after `firstMs`, then twice as long each time, up to `maxMs`. */
export interface RetryPace {
  readonly firstMs: number
  readonly maxMs: number
}

/** Longer than a delivery may take (mailer.ts, channels/), so that a claim outlives its sender only when that died. */
const claimMs = 60_000
/** The mark waits for its channel so long and no longer, so that a delivery has most of the claim for itself. */
const markWithinMs = 15_000

/**
 * Asks graphile-worker for a delivery after `delayMs`. Part of the caller's transaction.
 *
 * One job serves the whole channel: a job that waits is moved, one that runs is left alone and another one added.
 */
export async function requestDelivery(db: Db, channel: AlertChannel, delayMs: number): Promise<void> {
  await db.query(
    `select graphile_worker.add_job($1, job_key => $1, job_key_mode => 'replace', max_attempts => 100,
      run_at => clock_timestamp() + $2::float8 * interval '1 millisecond')`,
    [deliveryJob(channel), delayMs],
  )
}

/**
 * Asks for deliveries of what has been due for `slackMs` and nobody has in hand: its job died with its process, or could
 * not be made when it was written. A slack leaves the job that stands its time.
 */
export async function recoverDelivery(db: Db, slackMs: number = claimMs / 2): Promise<void> {
  const { rows } = await db.query<{ channel: AlertChannel }>(
    `select leasehold.overdue_channels($1::float8 * interval '1 millisecond') as channel`,
    [slackMs],
  )
  for (const { channel } of rows) await requestDelivery(db, channel, 0)
}

/**
 * Takes what waits for a channel and hands it over as one; the job's body. Does nothing when nothing waits.
 *
 * A failure of the channel is not thrown: the messages go back with the error and a job for the next try stands, unless
 * they were refused for good; then they stay until somebody asks for them. Throws when the database fails; the job is
 * then retried.
 */
export async function deliver(
  db: Db,
  channel: Channel,
  pace: RetryPace,
  log: Log,
  signal: AbortSignal,
): Promise<void> {
  const { name } = channel
  // Asked before anything is claimed: what fails here has kept nothing from anybody.
  const { name: database } = await databaseFacts(db)
  const messages = await claimMessages(db, name)
  const transmission = messages[0]?.transmission
  if (transmission === undefined) return waitForChannel(db, name)
  const delivery = asDelivery(messages, database)
  if (!(await beginHandover(db, name, transmission))) return
  const facts = { channel: name, alerts: messages.length }
  let remark: string | null
  try {
    remark = await channel.send(delivery, signal)
  } catch (error) {
    const tries = Math.max(...messages.map((message) => message.tries))
    // What a channel did not foresee may have happened after everything was handed over.
    const { refused, aloneMs, doubtful } =
      error instanceof DeliveryError ? error : { refused: false, aloneMs: null, doubtful: true }
    const delayMs = Math.max(retryDelay(tries, pace), aloneMs ?? 0)
    const reason = oneLine(describeError(error).message, 500)
    const failed = [name, transmission, reason, delayMs, refused, aloneMs !== null, doubtful]
    await note(signal, () => noteFailure(db, name, failed, refused ? null : delayMs))
    const told = {
      event: 'alert.failed',
      ...facts,
      tries,
      refused,
      doubtful,
      retryInMs: refused ? null : delayMs,
      reason,
    }
    log.warn(told, 'an alert was not taken')
    return
  }
  await note(signal, () =>
    db.query('select leasehold.messages_sent($1, $2, $3)', [name, transmission, remark]),
  )
  log.info({ event: 'alert.sent', ...facts, ...(remark !== null && { remark }) }, 'alert sent')
}

/**
 * Says that the first byte is about to go. False: somebody else has the messages by now, and they must not be sent.
 *
 * Throws when the database does not answer in time. Nothing is marked then, unless just the answer got lost.
 */
function beginHandover(db: Db, channel: AlertChannel, transmission: string): Promise<boolean> {
  return inTransaction(db, async (tx) => {
    await tx.query("select set_config('statement_timeout', $1, true)", [String(markWithinMs)])
    const { rows } = await tx.query<{ begun: boolean }>(
      `select leasehold.begin_handover($1, $2, $3::float8 * interval '1 millisecond') as begun`,
      [channel, transmission, claimMs],
    )
    return rows[0]?.begun === true
  })
}

function noteFailure(
  db: Db,
  channel: AlertChannel,
  failed: unknown[],
  retryInMs: number | null,
): Promise<void> {
  return inTransaction(db, async (tx) => {
    await tx.query(
      `select leasehold.messages_failed($1, $2, $3, $4::float8 * interval '1 millisecond', $5, $6, $7)`,
      failed,
    )
    if (retryInMs !== null) await requestDelivery(tx, channel, retryInMs)
  })
}

/**
 * Notes what came of a try, for as long as the claim lasts: a database that fails over meanwhile must not make a doubt of
 * what is known. An abort leaves one more try. Throws what the last one threw.
 */
async function note(signal: AbortSignal, write: () => Promise<unknown>): Promise<void> {
  const until = performance.now() + claimMs
  for (let failures = 1; ; failures++) {
    const last = signal.aborted || performance.now() > until
    try {
      await write()
      return
    } catch (error) {
      if (last) throw error
      await sleep(retryDelayMs(failures), signal)
    }
  }
}

async function claimMessages(db: Db, channel: AlertChannel): Promise<ClaimedMessage[]> {
  const { rows } = await db.query<ClaimedMessage & { id: string }>(
    `select id::text as id, purpose, subject, body, created_at, tries, incidents, transmission
    from leasehold.claim_messages($1, $2::float8 * interval '1 millisecond')`,
    [channel, claimMs],
  )
  return rows
}

/** Messages may wait because the other side asked to be left alone: the job comes back when that is over. */
async function waitForChannel(db: Db, channel: AlertChannel): Promise<void> {
  const { rows } = await db.query<{ ms: number }>(
    `select (extract(epoch from r.rests) * 1000)::float8 as ms
    from (select leasehold.channel_rests($1) as rests) r where r.rests is not null`,
    [channel],
  )
  if (rows[0] !== undefined) await requestDelivery(db, channel, rows[0].ms)
}

function asDelivery(messages: readonly ClaimedMessage[], database: string): Delivery {
  return {
    ...bundle(messages),
    database,
    alerts: messages.map(({ id, purpose, subject, created_at: createdAt, incidents }) => ({
      id,
      purpose,
      subject,
      createdAt,
      incidents: incidents ?? [],
    })),
  }
}

/** Doubles from try to try, with up to a quarter more so that several installations do not knock together. */
function retryDelay(tries: number, pace: RetryPace): number {
  const exact = Math.min(pace.maxMs, pace.firstMs * 2 ** Math.min(tries - 1, 30))
  return Math.round(Math.min(pace.maxMs, exact * (1 + Math.random() / 4)))
}
