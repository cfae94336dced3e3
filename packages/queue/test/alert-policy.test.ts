/**
 * The alert policy: changed as a whole or not at all, and refused in the program and in SQL when it cannot work.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Client } from 'pg'
import { type AlertPolicyInput, alertPolicyProblems, putAlertPolicy, readAlertPolicy } from '../src/index.ts'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'

let db: TestDatabase
beforeAll(async () => {
  db = await createTestDatabase()
})
afterAll(() => db.drop())

test('out of the box: two messages a day, one kept for new trouble, no quiet hours', async () => {
  const policy = await readAlertPolicy(db.pool)
  expect(policy).toMatchObject({
    perDay: 2,
    reserve: 1,
    zone: 'UTC',
    digestAt: '08:00',
    quiet: null,
    gapMs: 60_000,
  })
  expect(policy.rules['worker_dead']).toEqual({
    tell: 'now', minAgeMs: 0, remindAfterMs: null, channels: null, recovery: true, throughQuiet: false,
  }) // prettier-ignore
  expect(policy.rules['tasks_failing']).toMatchObject({ tell: 'digest' })
  expect(Object.keys(policy.channels).toSorted()).toEqual(['command', 'email', 'telegram', 'webhook'])
  expect(policy.backlogMs).toEqual({})
})

test('a change sets what it names and leaves the rest; the same change again changes nothing', async () => {
  const change: AlertPolicyInput = {
    perDay: 5,
    zone: 'Europe/London',
    quiet: { from: '22:00', until: '07:30' },
    rules: { worker_dead: { minAgeMs: 90_000, channels: ['telegram'] }, '*': { tell: 'digest' } },
    channels: { webhook: { perDay: 100 } },
    backlogMs: { verify: 3_600_000 },
  }
  const before = await readAlertPolicy(db.pool)
  expect(await putAlertPolicy(db.pool, change)).toBe(true)
  expect(await putAlertPolicy(db.pool, change)).toBe(false)
  const after = await readAlertPolicy(db.pool)
  expect(after).toMatchObject({
    perDay: 5,
    reserve: 1,
    zone: 'Europe/London',
    digestAt: '08:00',
    quiet: { from: '22:00', until: '07:30' },
    backlogMs: { verify: 3_600_000 },
  })
  expect(after.rules['worker_dead']).toEqual({
    ...before.rules['worker_dead'],
    minAgeMs: 90_000,
    channels: ['telegram'],
  })
  expect(after.channels.webhook.perDay).toBe(100)

  await putAlertPolicy(db.pool, {
    quiet: null,
    rules: { worker_dead: null },
    channels: { webhook: { perDay: null } },
    backlogMs: { verify: null },
  })
  const last = await readAlertPolicy(db.pool)
  expect(last).toMatchObject({ quiet: null, backlogMs: {} })
  expect(last.rules).not.toHaveProperty('worker_dead')
  expect(last.channels.webhook.perDay).toBeNull()
})

test('every problem of a change is named at once, and nothing of it happens', async () => {
  const before = await readAlertPolicy(db.pool)
  const hostile = {
    perDay: 0,
    zone: 'Mars/Base',
    digestAt: '25:00',
    gapMs: Number.NaN,
    rules: { worker_died: {}, worker_dead: { tell: 'loud', channels: ['pigeon'], minAge: 5 } },
    channels: { fax: {} },
    backlogMs: { 'No Stage': 5 },
    surprise: 1,
  } as unknown as AlertPolicyInput
  expect(alertPolicyProblems(hostile).map(({ name }) => name)).toEqual([
    'surprise',
    'perDay',
    'zone',
    'digestAt',
    'gapMs',
    'rules.worker_died',
    'rules.worker_dead.minAge',
    'rules.worker_dead.tell',
    'rules.worker_dead.channels',
    'channels.fax',
    'backlogMs.No Stage',
    'backlogMs.No Stage',
  ])
  await expect(putAlertPolicy(db.pool, hostile)).rejects.toMatchObject({ code: 'CONFIG' })
  expect(await readAlertPolicy(db.pool)).toEqual(before)
})

test.each([
  [{ quiet: { from: '08:00', until: '08:00' } }, 'quiet'],
  [{ quiet: { from: '22:00', until: '09:00' }, digestAt: '08:00' }, 'digestAt'],
  [{ perDay: 2, reserve: 3 }, 'reserve'],
  [{ zone: '+02:00' }, 'zone'],
  [{ rules: { worker_dead: { remindAfterMs: 1_000 } } }, 'rules.worker_dead.remindAfterMs'],
  [{ rules: { '*': { channels: [] } } }, 'rules.*.channels'],
  [null, 'alerts'],
  [{ rules: [] }, 'rules'],
] as [AlertPolicyInput, string][])('%j is refused at %s', (input, name) => {
  expect(alertPolicyProblems(input).map((problem) => problem.name)).toEqual([name])
})

test('what does not fit what is set already is refused by the database, which names the constraint', async () => {
  await putAlertPolicy(db.pool, { digestAt: '08:00', quiet: null })
  const refused = putAlertPolicy(db.pool, { perDay: 9, quiet: { from: '07:00', until: '09:00' } })
  await expect(refused).rejects.toMatchObject({
    code: 'VALUE_REFUSED',
    constraint: 'digest_is_not_in_quiet_hours',
  })
  expect((await readAlertPolicy(db.pool)).perDay).not.toBe(9)
})

test.each([
  ['update leasehold.alert_policy set per_day = 0', 'alert_per_day_is_1_to_1000'],
  ['update leasehold.alert_policy set reserve = 999', 'alert_reserve_is_within_per_day'],
  ["update leasehold.alert_policy set digest_at = '24:00'", 'alert_digest_is_an_hour_of_the_day'],
  ["update leasehold.alert_policy set quiet_from = '22:00'", 'quiet_hours_have_both_ends'],
  [
    "update leasehold.alert_policy set quiet_from = '9:00', quiet_until = '9:00'",
    'quiet_hours_are_not_the_whole_day',
  ],
  [
    "update leasehold.alert_policy set quiet_from = '23:00', quiet_until = '8:01'",
    'digest_is_not_in_quiet_hours',
  ],
  ["update leasehold.alert_policy set gap = '2 hours'", 'alert_gap_is_up_to_an_hour'],
  ["update leasehold.alert_policy set zone = 'Mars/Base'", 'alert_zone_is_known'],
  ["update leasehold.alert_policy set zone = 'EST5EDT+99'", 'alert_zone_is_known'],
  ['insert into leasehold.alert_policy (one_row) values (false)', 'alert_policy_is_one_row'],
  ["update leasehold.alert_rules set tell = 'loud'", 'alert_tell_is_known'],
  ["update leasehold.alert_rules set channels = '{}'", 'alert_rule_channels_are_known'],
  ["update leasehold.alert_rules set channels = '{pigeon}'", 'alert_rule_channels_are_known'],
  ["update leasehold.alert_rules set channels = '{null}'", 'alert_rule_channels_are_known'],
  ["update leasehold.alert_rules set remind_after = '1 second'", 'alert_reminder_is_5_minutes_to_a_year'],
  ["update leasehold.alert_rules set min_age = '-1 second'", 'alert_min_age_is_up_to_7_days'],
  ["insert into leasehold.alert_rules (kind) values ('Robert''); drop')", 'alert_rule_kind_is_plain'],
  ["insert into leasehold.alert_channels (channel) values ('fax')", 'alert_channel_is_known'],
  ["select leasehold.set_backlog_limit('s', '-1 s')", 'backlog_limit_is_a_second_to_a_year'],
])('%s is refused by a constraint that says why', async (sql, constraint) => {
  await expect(db.pool.query(sql)).rejects.toMatchObject({ constraint })
})

test.each([
  [`select leasehold.set_alert_policy('{"per_days": 3}')`, /no setting per_days/, /per_day, reserve/],
  [`select leasehold.set_alert_policy('[1]')`, /a change is a JSON object/, /per_day/],
  [`select leasehold.set_alert_policy(null)`, /a change is a JSON object/, /per_day/],
  [`select leasehold.set_alert_rule('worker_dead', '{"kind": "x"}')`, /no setting kind/, /tell/],
  [`select leasehold.set_alert_channel('fax', '{}')`, /no alert channel 'fax'/, /telegram/],
])('%s is refused with what there is', async (sql, message, hint) => {
  await expect(db.pool.query(sql)).rejects.toMatchObject({
    message: expect.stringMatching(message),
    hint: expect.stringMatching(hint),
  })
})

test('an operator changes the policy by its verbs only, an observer reads it', async ({ onTestFinished }) => {
  const logins = ['operator', 'observer'].map((role) => ({ role, name: `${role}_alerts_${db.name}` }))
  const clients: Client[] = []
  onTestFinished(async () => {
    for (const client of clients) await client.end()
    for (const { name } of logins) await db.pool.query(`drop owned by ${name}; drop role ${name}`)
  })
  for (const { role, name } of logins) {
    await db.pool.query(`create role ${name} login password 'made up' in role leasehold_${role}`)
    const url = new URL(db.url)
    url.username = name
    url.password = 'made up'
    const client = new Client({ connectionString: url.href })
    await client.connect()
    clients.push(client)
  }
  const [operator, observer] = clients as [Client, Client]
  expect(await putAlertPolicy(operator, { perDay: 7, rules: { backlog_old: { tell: 'never' } } })).toBe(true)
  expect((await readAlertPolicy(observer)).perDay).toBe(7)
  await expect(putAlertPolicy(observer, { perDay: 8 })).rejects.toMatchObject({ code: '42501' })
  await expect(operator.query('update leasehold.alert_policy set per_day = 1')).rejects.toMatchObject({
    code: '42501',
  })
})
