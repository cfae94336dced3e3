/**
 * The outbox of alerts as people look at it: what was told, what waits, what failed and why; and what is yet to be told.
 *
 * Only looks. The policy that decides is ../alert-policy.ts; sending is the monitor's.
 */
import type { AlertChannel } from '../alert-policy.ts'
import type { Db } from '../db.ts'
import { builder, checkLimit, rowsOf } from './query.ts'

/** `sending`: a monitor has it in hand; `refused`: tried again only when somebody asks. */
export type AlertState = 'sent' | 'waits' | 'sending' | 'failing' | 'refused'

/** A message of the outbox. */
export interface AlertRecord {
  readonly id: string
  readonly channel: AlertChannel
  readonly purpose: 'alert' | 'digest'
  readonly state: AlertState
  readonly subject: string
  readonly body: string
  readonly incidents: number
  readonly createdAt: Date
  readonly sentAt: Date | null
  readonly nextTryAt: Date | null
  readonly tries: number
  /** Of the last try; what was remarked when it was sent. */
  readonly lastError: string | null
}

/** Messages, the newest first. `unsent`: only those that nobody has taken. */
export async function listAlerts(
  db: Db,
  filter: { readonly channel?: AlertChannel; readonly unsent?: boolean; readonly limit?: number } = {},
): Promise<AlertRecord[]> {
  const { from, sql } = await builder()
  const { channel, unsent = false, limit = 20 } = filter
  const query = from
    .selectFrom('alerts as a')
    .select([
      sql<string>`a.id::text`.as('id'),
      'a.channel',
      'a.purpose',
      sql<AlertState>`case when a.sent_at is not null then 'sent' when a.refused_at is not null then 'refused'
        when a.claimed_until > leasehold.clock() then 'sending' when a.tries > 0 then 'failing' else 'waits' end`.as(
        'state',
      ),
      'a.subject',
      'a.body',
      sql<number>`cardinality(a.incident_ids)`.as('incidents'),
      'a.created_at as createdAt',
      'a.sent_at as sentAt',
      sql<Date | null>`case when a.sent_at is null and a.refused_at is null then a.next_try_at end`.as(
        'nextTryAt',
      ),
      'a.tries',
      'a.last_error as lastError',
    ])
    .$if(channel !== undefined, (q) => q.where('a.channel', '=', channel!))
    .$if(unsent, (q) => q.where('a.sent_at', 'is', null))
    .orderBy('a.id', 'desc')
    .limit(checkLimit(limit))
    .$castTo<AlertRecord>()
  return rowsOf(db, query)
}

/** News that no message has told yet, by channel and rule: they wait for the digest, the cap, or the end of quiet hours. */
export interface WaitingNews {
  readonly channel: AlertChannel
  readonly tell: 'now' | 'digest' | 'never'
  readonly count: number
  readonly oldestAt: Date
}

/** What waits to be told. */
export async function listWaitingNews(db: Db): Promise<WaitingNews[]> {
  const { rows } = await db.query<WaitingNews & { channel: AlertChannel }>(`
    select n.channel, coalesce(r.tell, d.tell, 'now') as tell, count(*)::float8 as count, min(n.at) as "oldestAt"
    from leasehold.alert_news n
    join leasehold.incidents i on i.id = n.incident_id
    left join leasehold.alert_rules r on r.kind = i.kind
    left join leasehold.alert_rules d on d.kind = '*'
    where n.told_at is null group by 1, 2 order by 1, 2`)
  return rows
}
