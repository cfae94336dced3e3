/**
 * Telling without the rest of a look: gather news, write the messages that are due, hand them over or not.
 *
 * The same verbs in the same transaction as look.ts; so a test may walk through days in a second.
 */
import { type AlertChannel, type Db, inTransaction } from '@leasehold/queue'
import type { TestDatabase } from '../../../test/harness/database.ts'
import { type Message, compose } from '../src/compose.ts'
import { composeDigest } from '../src/digest.ts'
import { dueMessages, gatherNews, serveChannels, writeMessage } from '../src/news.ts'

/** A message that was written. */
export interface Telling {
  readonly channel: AlertChannel
  readonly purpose: 'alert' | 'digest'
  /** The incidents' subjects, in the order in which they became news. */
  readonly subjects: readonly string[]
  readonly whats: readonly string[]
  readonly text: Message
}

/** Moves the database's clock to a moment, which must lie ahead. */
export async function until(db: TestDatabase, moment: string): Promise<void> {
  const { rows } = await db.pool.query<{ ms: number }>(
    'select (extract(epoch from $1::timestamptz - leasehold.clock()) * 1000)::float8 as ms',
    [moment],
  )
  await db.advance(rows[0]!.ms)
}

/** One telling on e-mail or the channels named; every message written is handed over unless `held` says so. */
export function tellings(
  db: TestDatabase,
  options: { readonly channels?: readonly AlertChannel[]; readonly held?: boolean } = {},
): Promise<Telling[]> {
  const { channels = ['email'], held = false } = options
  return inTransaction(db.pool, async (tx) => {
    await tx.query("select from leasehold.locks where name = 'monitor' for update")
    await serveChannels(tx, channels)
    await gatherNews(tx)
    const { messages } = await dueMessages(tx, 60_000, false)
    const told: Telling[] = []
    for (const due of messages) {
      const reporter = { database: db.name, host: 'crane.example', pid: 7 }
      const words = due.purpose === 'digest' ? composeDigest : compose
      const text = words(due.news, reporter, new Date())
      await writeMessage(tx, due, text)
      const { rows } = await tx.query<{ subject: string; what: string }>(
        `select i.subject, n.what from leasehold.alert_news n join leasehold.incidents i on i.id = n.incident_id
        where n.id = any ($1::bigint[]) order by n.id`,
        [due.newsIds],
      )
      const { channel, purpose } = due
      told.push({
        channel,
        purpose,
        text,
        subjects: rows.map((row) => row.subject),
        whats: rows.map((row) => row.what),
      })
      if (!held) await handOver(tx, [channel])
    }
    return told
  })
}

/**
 * Everything that waits on these channels is taken, as one message for each. `meanwhile` happens while they are on their
 * way. Answers how many messages of the outbox it was.
 */
export async function handOver(
  db: Db,
  channels: readonly AlertChannel[],
  meanwhile: (() => Promise<void>) | null = null,
): Promise<number> {
  const { rows } = await db.query<{ channel: string; transmission: string }>(
    `select t.channel, m.transmission from unnest($1::text[]) as t(channel)
    cross join lateral leasehold.claim_messages(t.channel, '5 minutes') m`,
    [channels],
  )
  await meanwhile?.()
  for (const { channel, transmission } of rows)
    await db.query('select leasehold.messages_sent($1, $2)', [channel, transmission])
  return rows.length
}

/** How much news no message has told. */
export async function waiting(db: TestDatabase): Promise<number> {
  const { rows } = await db.pool.query<{ n: number }>(
    'select count(*)::int as n from leasehold.alert_news where told_at is null',
  )
  return rows[0]!.n
}
