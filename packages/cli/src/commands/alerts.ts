/**
 * `leasehold alerts`: what was told to whom and what waits, the policy that decides, and a test of each channel.
 *
 * Only options and tables; changing the policy is alert-changes.ts beside it. The policy is the database's, the channels'
 * addresses and secrets are this environment's: `test` sends by what is set where it is run.
 */
import { hostname } from 'node:os'
import {
  type AlertChannel,
  type AlertPolicy,
  type AlertRecord,
  type WaitingNews,
  alertChannels,
  listAlerts,
  listWaitingNews,
  noteAlertTest,
  readAlertPolicy,
  retryAlerts,
} from '@leasehold/queue'
import type { TestResult } from '@leasehold/daemon-heartbeat-monitor'
import { type Command, Option } from 'commander'
import { type Context, show, withDatabase } from '../context.ts'
import { exitCodes } from '../exit-codes.ts'
import { usageError } from '../failure.ts'
import { wholeNumber } from '../options.ts'
import { printable } from '../terminal/printable.ts'
import { type Cell, facts, table } from '../terminal/table.ts'
import type { Terminal } from '../terminal/terminal.ts'
import { duration, moment } from '../terminal/time.ts'
import { addAlertChanges } from './alert-changes.ts'

interface ListOptions {
  readonly channel?: AlertChannel
  readonly unsent?: boolean
  readonly full?: boolean
  readonly limit: number
  readonly json?: boolean
}

/** `--channel NAME`, one of those there are. */
export function channelOption(description: string): Option {
  return new Option('--channel <channel>', description).choices(alertChannels)
}

/** Adds the commands to the program. */
export function addAlerts(program: Command, context: Context): void {
  const alerts = program.command('alerts').description('who is told of what: outbox, policy, channels, tests')
  alerts
    .command('list', { isDefault: true })
    .description('the messages of the outbox, the newest first, with tries and errors; and what waits')
    .addOption(channelOption('only of this channel'))
    .option('--unsent', 'only what nobody has taken yet')
    .option('--full', 'with the whole text')
    .option('--limit <n>', 'how many', wholeNumber(1, 1_000), 20)
    .option('--json', 'print one JSON document')
    .action((options: ListOptions) => list(context, options))
  alerts
    .command('policy')
    .description('how often and when people are told, and by which channels')
    .option('--json', 'print one JSON document')
    .action((options: { json?: boolean }) =>
      withDatabase(context, async ({ read }) => {
        const policy = await read((tx) => readAlertPolicy(tx))
        show(context, options.json, policy, () => policyText(context.terminal, policy))
      }),
    )
  alerts
    .command('rules')
    .description('how each kind of incident is told')
    .option('--json', 'print one JSON document')
    .action((options: { json?: boolean }) =>
      withDatabase(context, async ({ read }) => {
        const { rules } = await read((tx) => readAlertPolicy(tx))
        show(context, options.json, rules, () => rulesTable(context.terminal, rules))
      }),
    )
  alerts
    .command('test')
    .description('send a real message through each channel of this environment and say how it went')
    .addOption(channelOption('only this one'))
    .option('--json', 'print one JSON document')
    .action((options: { channel?: AlertChannel; json?: boolean }) => test(context, options))
  alerts
    .command('retry')
    .description('send again what a channel refused for good, once the cause is mended')
    .addOption(channelOption('only of this channel'))
    .action((options: { channel?: AlertChannel }) =>
      withDatabase(context, async ({ pool }) => {
        const count = await retryAlerts(pool, options.channel)
        if (count === 0) context.exitCode = exitCodes.nothingDone
        const what =
          count === 0 ? 'nothing was refused' : `${count} sent again with the next look of a monitor`
        context.terminal.out(what)
      }),
    )
  addAlertChanges(alerts, context)
}

function list(context: Context, options: ListOptions): Promise<void> {
  const { channel, unsent, limit } = options
  const filter = { limit, ...(channel && { channel }), ...(unsent && { unsent }) }
  return withDatabase(context, async ({ read }) => {
    const [messages, waiting] = await read(async (tx) => [
      await listAlerts(tx, filter),
      await listWaitingNews(tx),
    ])
    show(context, options.json, { messages, waiting }, () =>
      [
        options.full === true ? fullText(messages) : messageTable(context.terminal, messages),
        ...waiting.map(waitingLine),
      ].join('\n'),
    )
  })
}

function messageTable(terminal: Terminal, messages: readonly AlertRecord[]): string {
  if (messages.length === 0)
    return 'No alert. When something is wrong a monitor writes one: npx leasehold status'
  return table(
    terminal,
    ['ID', 'CHANNEL', 'STATE', 'WRITTEN', 'TRIES', 'SUBJECT', 'LAST ERROR'],
    messages.map((message): Cell[] => [
      message.id,
      message.channel,
      { shown: paintState(terminal, message.state) },
      moment(message.createdAt),
      message.tries,
      message.subject,
      message.lastError,
    ]),
  )
}

function paintState(terminal: Terminal, state: AlertRecord['state']): string {
  if (state === 'sent') return terminal.paint('green', state)
  return state === 'failing' || state === 'refused' ? terminal.paint('red', state) : state
}

function fullText(messages: readonly AlertRecord[]): string {
  return messages
    .map(({ id, channel, state, createdAt, subject, body }) =>
      [
        `${id}  ${channel}  ${state}  ${moment(createdAt)}  ${printable(subject)}`,
        ...body.split('\n').map((line) => `    ${printable(line)}`),
      ].join('\n'),
    )
    .join('\n')
}

function waitingLine({ channel, tell, count, oldestAt }: WaitingNews): string {
  const until = tell === 'now' ? 'the cap, the gap or quiet hours hold it back' : 'it waits for the digest'
  return `${channel}: ${count} to be told since ${moment(oldestAt)}; ${until} (npx leasehold alerts policy)`
}

function policyText(terminal: Terminal, policy: AlertPolicy): string {
  const { quiet } = policy
  const settings = facts(terminal, [
    ['messages a day', `${policy.perDay} for each channel, digest included`],
    ['kept for new trouble', `${policy.reserve} of them`],
    ['day and digest begin', `${policy.digestAt} ${policy.zone}`],
    ['quiet hours', quiet === null ? 'none' : `${quiet.from} to ${quiet.until} ${policy.zone}`],
    ['between two messages', policy.gapMs === 0 ? 'no gap' : `at least ${duration(policy.gapMs)}`],
    ...Object.entries(policy.backlogMs).map(
      ([stage, limit]) => [`backlog of ${stage}`, `at most ${duration(limit)} old`] as const,
    ),
  ])
  const channels = table(
    terminal,
    ['CHANNEL', 'ON', 'A DAY', 'SERVED BY A MONITOR', 'LAST SENT', 'FAILING SINCE', 'LAST ERROR'],
    alertChannels.map((name) => {
      const one = policy.channels[name]
      return [
        name,
        one.enabled ? 'yes' : 'no',
        one.perDay ?? policy.perDay,
        momentOrNull(one.servedAt),
        momentOrNull(one.lastSentAt),
        momentOrNull(one.failingSince),
        one.lastError,
      ]
    }),
  )
  return `${settings}\n\n${channels}\n\nChange it: npx leasehold alerts set --help`
}

function momentOrNull(date: Date | null): string | null {
  return date === null ? null : moment(date)
}

function rulesTable(terminal: Terminal, rules: AlertPolicy['rules']): string {
  return table(
    terminal,
    ['KIND', 'TELL', 'FROM AGE', 'REMIND AFTER', 'CHANNELS', 'RECOVERY', 'THROUGH QUIET HOURS'],
    Object.entries(rules)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([kind, rule]) => [
        kind,
        rule.tell,
        rule.minAgeMs === 0 ? null : duration(rule.minAgeMs),
        rule.remindAfterMs === null ? null : duration(rule.remindAfterMs),
        rule.channels === null ? 'all' : rule.channels.join(','),
        rule.recovery ? 'yes' : 'no',
        rule.throughQuiet ? 'yes' : 'no',
      ]),
  )
}

interface ChannelTest extends TestResult {
  /** Null: the monitor's last try went well, or it has not tried. */
  readonly monitorFailsSince: Date | null
  readonly monitorError: string | null
}

function testText(terminal: Terminal, results: readonly ChannelTest[]): string {
  const shown = table(
    terminal,
    ['CHANNEL', 'RESULT', 'TOOK', 'REMARK'],
    results.map(({ channel, ok, remark, tookMs }): Cell[] => [
      channel,
      { shown: terminal.paint(ok ? 'green' : 'red', ok ? 'taken' : 'NOT TAKEN') },
      duration(tookMs),
      remark,
    ]),
  )
  const differing = results.flatMap(({ channel, ok, monitorFailsSince: since, monitorError }) =>
    ok && since !== null
      ? [
          `The monitor itself has failed at ${channel} since ${moment(since)}: ${printable(monitorError ?? 'unknown')}. This test went out by ` +
            'the settings of this shell: compare them with its own. It tries again by itself, except for what was refused: ' +
            'npx leasehold alerts retry',
        ]
      : [],
  )
  return [shown, ...differing].join('\n')
}

async function test(
  context: Context,
  options: { readonly channel?: AlertChannel; readonly json?: boolean },
): Promise<void> {
  // What it loads is the monitor's: not for every command.
  const { channelSettings, openChannels, sendTest } = await import('@leasehold/daemon-heartbeat-monitor')
  await withDatabase(context, async ({ pool, read, config }) => {
    const configured = openChannels(channelSettings(config, context.environment))
    const wanted = configured.filter(({ name }) => options.channel === undefined || name === options.channel)
    if (wanted.length === 0) {
      const which = options.channel === undefined ? 'no channel is' : `channel ${options.channel} is not`
      throw usageError(
        `${which} configured in this environment`,
        'set what the monitor has: SMTP_HOST, EMAIL_FROM and HEARTBEAT_MONITOR_ALERT_EMAIL; TELEGRAM_BOT_TOKEN and ' +
          'TELEGRAM_CHAT_ID; LEASEHOLD_WEBHOOK_URL; LEASEHOLD_ALERT_COMMAND (docs/alerts.md)',
      )
    }
    const { rows } = await pool.query<{ name: string }>('select current_database()::text as name')
    const sent = await sendTest(wanted, { database: rows[0]?.name ?? '?', host: hostname() })
    for (const { channel, ok, remark } of sent) await noteAlertTest(pool, channel, ok ? null : remark)
    const { channels } = await read((tx) => readAlertPolicy(tx))
    const results = sent.map((result) => {
      const { failingSince, lastError } = channels[result.channel]
      const monitorError = failingSince === null ? null : lastError
      return { ...result, monitorFailsSince: failingSince, monitorError }
    })
    show(context, options.json, results, () => testText(context.terminal, results))
    if (results.some(({ ok }) => !ok)) context.exitCode = exitCodes.failed
  })
}
