/**
 * Storms over several days by the movable clock: whatever happens, no channel gets more than its cap, nothing goes out in
 * quiet hours that may not, and nothing that should be told is forgotten.
 *
 * Randomness is seeded and the seed is printed with a failure. Hand-overs fail for hours at a time, as a mail server does
 * that is down for a day.
 */
import type { AlertChannel } from '@leasehold/queue'
import { putAlertPolicy } from '@leasehold/queue'
import { expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { handOver, tellings, until } from './telling.ts'

const minute = 60_000

/** mulberry32: small, seeded, good enough to shuffle a storm. */
function random(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}

const kinds = [
  'worker_wedged',
  'workers_missing',
  'stage_without_worker',
  'tasks_failing',
  'backlog_old',
  'monitor_silent',
]

async function weather(db: TestDatabase, chance: () => number, n: number): Promise<void> {
  const opens = chance() < 0.3 ? Math.floor(chance() * 40) : Math.floor(chance() * 2)
  for (let i = 0; i < opens; i++) {
    const kind = kinds[Math.floor(chance() * kinds.length)]
    await db.pool.query('select leasehold.open_incident($1, $2, $3)', [
      kind,
      `s${n}-${i}`,
      `${kind} ${n}-${i}`,
    ])
  }
  await db.pool.query(
    `update leasehold.incidents set resolved_at = leasehold.clock()
    where resolved_at is null and ('x' || substr(md5(id::text || $1), 1, 4))::bit(16)::int < $2::float8 * 65536`,
    [String(n), chance() * 0.4],
  )
}

/** More trouble and another look, more than a gap after the last one. */
async function nextLook(db: TestDatabase, channels: readonly AlertChannel[], turn: number): Promise<void> {
  await db.advance(minute + 1)
  await db.pool.query('select leasehold.open_incident($1, $2, $3)', ['worker_wedged', `late${turn}`, 'late'])
  await tellings(db, { channels, held: true })
}

test.each([
  [7_919, true],
  [15_838, false],
])(
  'four days of storm, seed %i, some may pass quiet hours: %s; never more than the cap, and everything told',
  async (seed, throughQuiet) => {
    const db = await createTestDatabase()
    try {
      const chance = random(seed)
      const perDay = 2 + Math.floor(chance() * 3)
      await until(db, '2027-03-26 03:00Z')
      await putAlertPolicy(db.pool, {
        perDay,
        zone: 'Europe/London',
        quiet: { from: '22:00', until: '06:30' },
        channels: { webhook: { perDay: perDay + 3 } },
        rules: {
          monitor_silent: { minAgeMs: 20 * minute, throughQuiet },
          stage_without_worker: { throughQuiet },
          backlog_old: { tell: 'never' },
        },
      })
      const channels: AlertChannel[] = ['email', 'webhook']
      const down = new Map<AlertChannel, number>()
      for (let turn = 0; turn < 110; turn++) {
        await weather(db, chance, turn)
        for (const channel of channels) {
          if (chance() < 0.04) down.set(channel, turn + Math.floor(chance() * 30))
        }
        await tellings(db, { channels, held: true })
        const up = channels.filter((channel) => (down.get(channel) ?? 0) <= turn)
        // Now and then a message is on its way for so long that the next look comes before it has arrived.
        await handOver(db.pool, up, chance() < 0.5 ? null : () => nextLook(db, channels, turn))
        await db.advance(chance() < 0.2 ? 20_000 : Math.floor(chance() * 90) * minute)
      }
      // The storm is over: the next two mornings tell the rest.
      for (let step = 0; step < 50; step++) {
        await tellings(db, { channels, held: true })
        await handOver(db.pool, channels)
        await db.advance(60 * minute)
      }

      const { rows: days } = await db.pool.query<{ channel: string; day: string; sent: number }>(
        `select channel, leasehold.alert_day(sent_at)::text as day, count(distinct transmission)::int as sent
        from leasehold.alerts where sent_at is not null group by 1, 2`,
      )
      expect(days.length).toBeGreaterThan(6)
      const over = days.filter(({ channel, sent }) => sent > perDay + (channel === 'webhook' ? 3 : 0))
      expect(over).toEqual([])

      const { rows: digests } = await db.pool.query(
        `select channel, leasehold.alert_day(created_at) from leasehold.alerts where purpose = 'digest'
        group by 1, 2 having count(*) > 1`,
      )
      expect(digests).toEqual([])

      // Told on both channels, or deliberately never: its kind says so, or it was over sooner than its age.
      const { rows: forgotten } = await db.pool.query(
        `select i.id, i.kind, t.channel from leasehold.incidents i
        cross join unnest($1::text[]) as t(channel) cross join lateral leasehold.alert_rule(i.kind) r
        where r.tell <> 'never' and coalesce(i.resolved_at, leasehold.clock()) - i.opened_at >= r.min_age
          and not exists (select from leasehold.alert_news n join leasehold.alerts a on a.id = n.alert_id
            where n.incident_id = i.id and n.channel = t.channel and n.what = 'opened' and a.sent_at is not null)
          and i.opened_at < leasehold.clock() - interval '1 day'`,
        [channels],
      )
      expect(forgotten).toEqual([])

      // A message that is on its way when quiet hours begin may arrive in them: a minute and a bit.
      const { rows: noisy } = await db.pool.query(
        `select t.transmission from (
          select a.transmission, min(a.sent_at) as at, array_agg(a.id) as ids from leasehold.alerts a
          where a.sent_at is not null group by 1) t
        where leasehold.is_quiet(t.at) and leasehold.is_quiet(t.at - interval '2 minutes')
          and not exists (select from leasehold.alert_news n join leasehold.incidents i on i.id = n.incident_id
            cross join lateral leasehold.alert_rule(i.kind) r where n.alert_id = any (t.ids) and r.through_quiet)`,
      )
      expect(noisy).toEqual([])
    } finally {
      await db.drop()
    }
  },
  120_000,
)
