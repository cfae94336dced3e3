/**
 * Whom incidents are told to, when and how often at most: the policy that monitors follow, read and changed.
 *
 * Invariant: a change is applied as a whole or not at all, and what it does not name stays. It is checked here, so that
 * every problem is reported at once, and again by the database's named constraints, which bind SQL users too.
 * What the policy means is told in migrations/0013_alerts.sql; sending is the monitor's.
 */
import { type Db, inTransaction } from './db.ts'
import { ConfigError, type ConfigProblem } from './errors.ts'
import { translating } from './translate.ts'

/** The ways to tell people. Their addresses and secrets are settings of the monitor. */
export const alertChannels = ['email', 'telegram', 'webhook', 'command'] as const
export type AlertChannel = (typeof alertChannels)[number]

/** Every kind of incident that a monitor opens. */
export const incidentKinds = [
  'worker_dead',
  'stage_without_worker',
  'workers_missing',
  'worker_wedged',
  'task_quarantined',
  'tasks_failing',
  'backlog_old',
  'schedule_missed',
  'schedule_failing',
  'monitor_silent',
  'channel_down',
  'housekeeping_overdue',
  'mail_undeliverable',
] as const
export type IncidentKindName = (typeof incidentKinds)[number]

/** `now`: as soon as cap, gap and quiet hours allow; `digest`: once a day; `never`: in the views only. */
export type AlertTelling = 'now' | 'digest' | 'never'

/** How incidents of one kind are told. */
export interface AlertRule {
  readonly tell: AlertTelling
  /** What is over sooner is never told. */
  readonly minAgeMs: number
  /** Tell again when it has been open for so long since it was last told; null: never. */
  readonly remindAfterMs: number | null
  /** Only these; null: all that a monitor serves. */
  readonly channels: readonly AlertChannel[] | null
  /** Also tell when it is over. */
  readonly recovery: boolean
  /** Told in quiet hours too. */
  readonly throughQuiet: boolean
}

/** A channel as the operator sees it. */
export interface AlertChannelState {
  readonly enabled: boolean
  /** Messages a day; null: the policy's. */
  readonly perDay: number | null
  /** When a monitor last said that it can send there; null: never. */
  readonly servedAt: Date | null
  readonly lastSentAt: Date | null
  /** Nothing was taken since; null: the last try went well. */
  readonly failingSince: Date | null
  readonly lastError: string | null
}

/** The whole policy. */
export interface AlertPolicy {
  /** Messages a day and channel, the digest included. */
  readonly perDay: number
  /** So many of them are kept for new trouble. */
  readonly reserve: number
  /** IANA time zone. */
  readonly zone: string
  /** `HH:MM`; the day begins here. */
  readonly digestAt: string
  readonly quiet: { readonly from: string; readonly until: string } | null
  /** The least time between two messages of a channel. */
  readonly gapMs: number
  /** By kind; `*` for kinds without one. */
  readonly rules: Readonly<Record<string, AlertRule>>
  readonly channels: Readonly<Record<AlertChannel, AlertChannelState>>
  /** By stage: how old its oldest ready task may be. */
  readonly backlogMs: Readonly<Record<string, number>>
}

/** A change of the policy: what it names is set, all else stays. A rule or a backlog limit that is null is removed. */
export interface AlertPolicyInput {
  readonly perDay?: number | undefined
  readonly reserve?: number | undefined
  readonly zone?: string | undefined
  readonly digestAt?: string | undefined
  readonly quiet?: { readonly from: string; readonly until: string } | null | undefined
  readonly gapMs?: number | undefined
  readonly rules?: Readonly<Record<string, AlertRuleInput | null>> | undefined
  readonly channels?: Readonly<Partial<Record<AlertChannel, AlertChannelInput>>> | undefined
  readonly backlogMs?: Readonly<Record<string, number | null>> | undefined
}

/** A change of one rule. */
export type AlertRuleInput = { readonly [K in keyof AlertRule]?: AlertRule[K] | undefined }

/** A change of one channel. */
export interface AlertChannelInput {
  readonly enabled?: boolean | undefined
  readonly perDay?: number | null | undefined
}

const minute = 60_000
const day = 86_400_000
const stageName = /^[a-z][a-z0-9_.-]{0,47}$/
const clockTime = /^([01]\d|2[0-3]):[0-5]\d$/

/** What is wrong with a change, by itself; empty when nothing is. Names are paths: `rules.worker_dead.minAgeMs`. */
export function alertPolicyProblems(input: AlertPolicyInput): ConfigProblem[] {
  const found = new Problems()
  if (!found.object('', input, policyKeys)) return found.list
  const { quiet } = input
  found.whole('perDay', input.perDay, 1, 1_000)
  found.whole('reserve', input.reserve, 0, 1_000)
  if (input.perDay !== undefined && input.reserve !== undefined && input.reserve > input.perDay)
    found.add('reserve', `is ${input.reserve}, more than perDay (${input.perDay})`)
  if (input.zone !== undefined && !isZone(input.zone))
    found.add('zone', `'${shown(input.zone)}' is no IANA time zone such as Europe/London`)
  found.time('digestAt', input.digestAt)
  found.milliseconds('gapMs', input.gapMs, 0, 60 * minute)
  if (quiet !== undefined && quiet !== null && found.object('quiet', quiet, ['from', 'until'])) {
    found.time('quiet.from', quiet.from ?? null)
    found.time('quiet.until', quiet.until ?? null)
    if (quiet.from === quiet.until) found.add('quiet', 'must not be the whole day')
    else if (input.digestAt !== undefined && isWithin(input.digestAt, quiet))
      found.add('digestAt', `${input.digestAt} lies in the quiet hours from ${quiet.from} to ${quiet.until}`)
  }
  if (input.rules !== undefined && found.object('rules', input.rules, null)) {
    for (const [kind, rule] of Object.entries(input.rules)) checkRule(found, kind, rule)
  }
  if (input.channels !== undefined && found.object('channels', input.channels, alertChannels)) {
    for (const [channel, change] of Object.entries(input.channels)) {
      const place = `channels.${channel}`
      if (!found.object(place, change, ['enabled', 'perDay'])) continue
      found.yesOrNo(`${place}.enabled`, change.enabled)
      if (change.perDay !== null) found.whole(`${place}.perDay`, change.perDay, 1, 100_000)
    }
  }
  if (input.backlogMs !== undefined && found.object('backlogMs', input.backlogMs, null)) {
    for (const [stage, limit] of Object.entries(input.backlogMs)) {
      if (!stageName.test(stage)) found.add(`backlogMs.${shown(stage)}`, 'is no name of a stage')
      if (limit !== null) found.milliseconds(`backlogMs.${shown(stage)}`, limit, 1_000, 366 * day)
    }
  }
  return found.list
}

function checkRule(found: Problems, kind: string, rule: AlertRuleInput | null): void {
  const place = `rules.${shown(kind)}`
  if (kind !== '*' && !incidentKinds.some((known) => known === kind)) {
    found.add(place, `is no kind of incident; there are ${incidentKinds.join(', ')} and *`)
    return
  }
  if (rule === null || !found.object(place, rule, ruleKeys)) return
  if (rule.tell !== undefined && !['now', 'digest', 'never'].includes(rule.tell))
    found.add(`${place}.tell`, `'${shown(rule.tell)}' must be now, digest or never`)
  found.milliseconds(`${place}.minAgeMs`, rule.minAgeMs, 0, 7 * day)
  if (rule.remindAfterMs !== null)
    found.milliseconds(`${place}.remindAfterMs`, rule.remindAfterMs, 5 * minute, 366 * day)
  found.yesOrNo(`${place}.recovery`, rule.recovery)
  found.yesOrNo(`${place}.throughQuiet`, rule.throughQuiet)
  const { channels } = rule
  if (channels === undefined || channels === null) return
  const known = (one: unknown): boolean => alertChannels.some((channel) => channel === one)
  if (!Array.isArray(channels) || channels.length === 0 || !channels.every(known))
    found.add(`${place}.channels`, `must be some of ${alertChannels.join(', ')}, or null for all`)
}

const policyKeys = [
  'perDay',
  'reserve',
  'zone',
  'digestAt',
  'quiet',
  'gapMs',
  'rules',
  'channels',
  'backlogMs',
]
const ruleKeys = ['tell', 'minAgeMs', 'remindAfterMs', 'channels', 'recovery', 'throughQuiet']

/** Gathers problems; a value that is not there is none. */
class Problems {
  readonly list: ConfigProblem[] = []

  add(name: string, problem: string): void {
    this.list.push({ name: name === '' ? 'alerts' : name, problem })
  }

  object(name: string, value: unknown, keys: readonly string[] | null): boolean {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      this.add(name, 'must be an object')
      return false
    }
    for (const key of Object.keys(value)) {
      if (keys !== null && !keys.includes(key))
        this.add(`${name}${name === '' ? '' : '.'}${shown(key)}`, `is unknown; there are ${keys.join(', ')}`)
    }
    return true
  }

  whole(name: string, value: unknown, min: number, max: number): void {
    if (value !== undefined && !(Number.isInteger(value) && Number(value) >= min && Number(value) <= max))
      this.add(name, `'${shown(value)}' must be a whole number from ${min} to ${max}`)
  }

  milliseconds(name: string, value: unknown, min: number, max: number): void {
    const fits = typeof value === 'number' && value >= min && value <= max
    if (value !== undefined && !fits)
      this.add(name, `'${shown(value)}' must be ${min} to ${max} milliseconds`)
  }

  time(name: string, value: unknown): void {
    if (value !== undefined && !(typeof value === 'string' && clockTime.test(value)))
      this.add(name, `'${shown(value)}' must be an hour such as 08:00`)
  }

  yesOrNo(name: string, value: unknown): void {
    if (value !== undefined && typeof value !== 'boolean') this.add(name, 'must be true or false')
  }
}

/** A stranger's value as far as a message needs it. */
function shown(value: unknown): string {
  return String(value).slice(0, 60)
}

function isZone(zone: unknown): boolean {
  if (typeof zone !== 'string' || !/^[A-Za-z]/.test(zone)) return false
  try {
    return new Intl.DateTimeFormat('en', { timeZone: zone }).resolvedOptions().timeZone !== ''
  } catch {
    return false
  }
}

function isWithin(time: string, quiet: { readonly from: string; readonly until: string }): boolean {
  const { from, until } = quiet
  return from < until ? time >= from && time < until : time >= from || time < until
}

/**
 * Changes the policy. Answers whether anything is different now; the next look of a monitor follows it.
 *
 * Throws {@link ConfigError} with every problem of the change; {@link ValueRefusedError} with the constraint when it does
 * not fit what is set already (a digest in the quiet hours).
 */
export async function putAlertPolicy(db: Db, input: AlertPolicyInput): Promise<boolean> {
  const problems = alertPolicyProblems(input)
  if (problems.length > 0) throw new ConfigError(problems)
  return translating(() =>
    inTransaction(db, async (tx) => {
      const changed: boolean[] = []
      const set = async (call: string, values: unknown[]): Promise<void> => {
        const { rows } = await tx.query<{ changed: boolean }>(`select leasehold.${call} as changed`, values)
        changed.push(rows[0]?.changed === true)
      }
      const policy = policyChange(input)
      if (Object.keys(policy).length > 0) await set('set_alert_policy($1)', [JSON.stringify(policy)])
      for (const [kind, rule] of sorted(input.rules))
        await set('set_alert_rule($1, $2)', [kind, rule === null ? null : JSON.stringify(ruleChange(rule))])
      for (const [channel, { enabled, perDay }] of sorted(input.channels))
        await set('set_alert_channel($1, $2)', [channel, JSON.stringify({ enabled, per_day: perDay })])
      for (const [stage, limit] of sorted(input.backlogMs))
        await set(`set_backlog_limit($1, $2::float8 * interval '1 millisecond')`, [stage, limit])
      return changed.includes(true)
    }),
  )
}

/** One order for everybody, so that two who change the policy wait for one another instead of dying. */
function sorted<T>(record: Readonly<Record<string, T>> | undefined): [string, T][] {
  return Object.entries(record ?? {}).sort(([a], [b]) => (a < b ? -1 : 1))
}

/** Columns to values; what is undefined vanishes in JSON and stays as it is. */
function policyChange(input: AlertPolicyInput): Record<string, unknown> {
  const { perDay, reserve, zone, digestAt, quiet, gapMs } = input
  const change = {
    per_day: perDay,
    reserve,
    zone,
    digest_at: digestAt,
    quiet_from: quiet === null ? null : quiet?.from,
    quiet_until: quiet === null ? null : quiet?.until,
    gap: interval(gapMs),
  }
  return Object.fromEntries(Object.entries(change).filter(([, value]) => value !== undefined))
}

function ruleChange(rule: AlertRuleInput): Record<string, unknown> {
  const { tell, minAgeMs, remindAfterMs, channels, recovery, throughQuiet } = rule
  return {
    tell,
    min_age: interval(minAgeMs),
    remind_after: remindAfterMs === null ? null : interval(remindAfterMs),
    channels,
    recovery,
    through_quiet: throughQuiet,
  }
}

function interval(ms: number | undefined): string | undefined {
  return ms === undefined ? undefined : `${ms} milliseconds`
}

/** Puts messages that were refused back among those which wait. Without a channel: of all. Answers how many. */
export async function retryAlerts(db: Db, channel?: AlertChannel): Promise<number> {
  const { rows } = await db.query<{ n: number }>('select leasehold.retry_alerts($1) as n', [channel ?? null])
  return rows[0]?.n ?? 0
}

/**
 * Keeps how a test message of a channel went, by the settings of whoever sent it: null, it was taken; else why not. A
 * channel that fails the monitor goes on failing until the monitor has sent something.
 */
export async function noteAlertTest(db: Db, channel: AlertChannel, error: string | null): Promise<void> {
  await db.query('select leasehold.note_alert_test($1, $2)', [channel, error])
}

/** Reads the whole policy as it stands. */
export async function readAlertPolicy(db: Db): Promise<AlertPolicy> {
  const { rows } = await db.query<AlertPolicy & { zone: string }>(`
    select p.per_day as "perDay", p.reserve, p.zone, to_char(p.digest_at, 'HH24:MI') as "digestAt",
      case when p.quiet_from is not null then jsonb_build_object(
        'from', to_char(p.quiet_from, 'HH24:MI'), 'until', to_char(p.quiet_until, 'HH24:MI')) end as quiet,
      (extract(epoch from p.gap) * 1000)::float8 as "gapMs",
      (select jsonb_object_agg(r.kind, jsonb_build_object('tell', r.tell,
        'minAgeMs', (extract(epoch from r.min_age) * 1000)::float8,
        'remindAfterMs', (extract(epoch from r.remind_after) * 1000)::float8, 'channels', r.channels,
        'recovery', r.recovery, 'throughQuiet', r.through_quiet)) from leasehold.alert_rules r) as rules,
      coalesce((select jsonb_object_agg(b.stage, (extract(epoch from b.older_than) * 1000)::float8)
        from leasehold.backlog_limits b), '{}') as "backlogMs"
    from leasehold.alert_policy p`)
  const [policy] = rows
  if (policy === undefined) throw new Error('leasehold.alert_policy is empty: insert its one row')
  return { ...policy, rules: policy.rules ?? {}, channels: await readChannels(db) }
}

async function readChannels(db: Db): Promise<AlertPolicy['channels']> {
  const { rows } = await db.query<AlertChannelState & { channel: AlertChannel }>(`
    select channel, enabled, per_day as "perDay", served_at as "servedAt", last_sent_at as "lastSentAt",
      failing_since as "failingSince", last_error as "lastError"
    from leasehold.alert_channels order by channel`)
  return Object.fromEntries(rows.map(({ channel, ...state }) => [channel, state])) as AlertPolicy['channels']
}
