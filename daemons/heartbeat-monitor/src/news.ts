/**
 * News and messages as rows: what has changed, what of it has to be told now, and the message that tells it.
 *
 * Invariant: no decision is made here; when and how often is decided in SQL (migrations/0013_alerts.sql and later), the
 * words are compose.ts and digest.ts. All of it is part of a look's transaction. Handing messages over is outbox.ts.
 */
import type { AlertChannel, Db } from '@leasehold/queue'
import type { Incident } from './verbs.ts'

/** What one message tells. Of the opened some may be over already. */
export interface News {
  readonly opened: readonly Incident[]
  readonly resolved: readonly Incident[]
  /** Told before and still open. */
  readonly reminders?: readonly Incident[]
}

/** `digest`: the one message a day of what was not told at once. */
export type Purpose = 'alert' | 'digest'

/** A message that has to be written now. */
export interface DueMessage {
  readonly channel: AlertChannel
  readonly purpose: Purpose
  readonly newsIds: readonly string[]
  readonly news: News
}

/** What has to be told now, and in how many milliseconds there will be more of it; null: not that anybody knows. */
export interface Due {
  readonly messages: readonly DueMessage[]
  readonly againMs: number | null
}

interface Item {
  readonly news_id: string
  readonly what: 'opened' | 'reminder' | 'resolved'
  readonly incident: Incident
}

/** This monitor can send through these channels. */
export async function serveChannels(tx: Db, channels: readonly AlertChannel[]): Promise<void> {
  if (channels.length > 0) await tx.query('select leasehold.serve_channels($1)', [channels])
}

/** Makes news of what has changed. */
export async function gatherNews(tx: Db): Promise<void> {
  await tx.query('select leasehold.gather_news()')
}

/** Asks what has to be told now; until the transaction ends nobody else can send on the channels asked about. */
export async function dueMessages(tx: Db, intervalMs: number, unfinished: boolean): Promise<Due> {
  const { rows } = await tx.query<{
    channel: AlertChannel
    purpose: Purpose | null
    news: readonly Item[] | null
    again_ms: number | null
  }>(
    `select channel, purpose, news, (extract(epoch from again) * 1000)::float8 as again_ms
    from leasehold.due_messages($1::float8 * interval '1 millisecond', $2)`,
    [intervalMs, unfinished],
  )
  const waits = rows.flatMap(({ again_ms: ms }) => (ms === null ? [] : [ms]))
  return {
    messages: rows.flatMap(({ channel, purpose, news }) =>
      purpose === null || news === null
        ? []
        : [{ channel, purpose, newsIds: news.map((item) => item.news_id), news: sortOut(news) }],
    ),
    againMs: waits.length === 0 ? null : Math.min(...waits),
  }
}

function sortOut(items: readonly Item[]): News {
  const of = (what: Item['what']): Incident[] =>
    items.filter((item) => item.what === what).map((item) => item.incident)
  return { opened: of('opened'), resolved: of('resolved'), reminders: of('reminder') }
}

/** Why nobody can be told, in words; null: whoever has to be told can be, or nobody has to. */
export async function whyUntold(tx: Db): Promise<string | null> {
  const { rows } = await tx.query<{ why: string | null }>('select leasehold.why_untold() as why')
  return rows[0]?.why ?? null
}

/** Puts a message into the outbox and marks its news as told. Answers its id. */
export async function writeMessage(
  tx: Db,
  due: DueMessage,
  message: { readonly subject: string; readonly body: string },
): Promise<string> {
  const { rows } = await tx.query<{ id: string }>(
    'select leasehold.write_message($1, $2, $3::bigint[], $4, $5)::text as id',
    [due.channel, due.purpose, due.newsIds, message.subject, message.body],
  )
  return rows[0]?.id ?? ''
}
