/**
 * `leasehold alerts set|rule|channel|backlog`: changes of the alert policy.
 *
 * Each sets what it names and leaves the rest, and says when nothing was different. What is allowed is checked by the
 * verb and the database; here only texts become values.
 */
import {
  type AlertChannel,
  type AlertPolicyInput,
  type AlertRuleInput,
  type AlertTelling,
  alertChannels,
  alertPolicyProblems,
  incidentKinds,
  putAlertPolicy,
} from '@leasehold/queue'
import { Argument, type Command, Option } from 'commander'
import { type Context, withDatabase } from '../context.ts'
import { exitCodes } from '../exit-codes.ts'
import { usageError } from '../failure.ts'
import { wholeNumber } from '../options.ts'
import { parseDuration } from '../terminal/time.ts'

interface SetOptions {
  readonly perDay?: number
  readonly reserve?: number
  readonly zone?: string
  readonly digestAt?: string
  readonly quiet?: string
  readonly gap?: string
}

interface RuleOptions {
  readonly tell?: AlertTelling
  readonly minAge?: string
  readonly remindAfter?: string
  readonly channels?: string
  readonly recovery?: boolean
  readonly throughQuiet?: boolean
  readonly remove?: boolean
}

interface ChannelOptions {
  readonly on?: boolean
  readonly off?: boolean
  readonly perDay?: string
}

/** Adds the commands below `alerts`. */
export function addAlertChanges(alerts: Command, context: Context): void {
  alerts
    .command('set')
    .description('change the policy: how often and when')
    .option('--per-day <n>', 'messages a day and channel, digest included', wholeNumber(1, 1_000))
    .option('--reserve <n>', 'so many of them are kept for new trouble', wholeNumber(0, 1_000))
    .option('--zone <zone>', 'time zone of digest and quiet hours: Europe/London')
    .option('--digest-at <hour>', 'when the day begins and its digest goes out: 08:00')
    .option('--quiet <hours>', 'nothing in these hours but what may pass: 22:00-07:00, or off')
    .option('--gap <time>', 'the least time between two messages: 1min')
    .action((options: SetOptions) => change(context, policyOf(options)))
  alerts
    .command('rule')
    .description('change how a kind of incident is told')
    .addArgument(
      new Argument('<kind>', "a kind, or '*' for those without a rule").choices(['*', ...incidentKinds]),
    )
    .addOption(new Option('--tell <when>', 'at once, once a day, or not').choices(['now', 'digest', 'never']))
    .option('--min-age <time>', 'what is over sooner is never told: 5min, 0s')
    .option('--remind-after <time>', 'tell again when still open: 1d, or never')
    .option('--channels <list>', `some of ${alertChannels.join(',')}, or all`)
    .option('--recovery', 'also tell when it is over')
    .option('--no-recovery')
    .option('--through-quiet', 'tell in quiet hours too')
    .option('--no-through-quiet')
    .option('--remove', "remove the rule: '*' counts again")
    .action((kind: string, options: RuleOptions) => change(context, { rules: { [kind]: ruleOf(options) } }))
  alerts
    .command('channel')
    .description('switch a channel on or off, or give it a cap of its own')
    .addArgument(new Argument('<channel>').choices(alertChannels))
    .option('--on')
    .option('--off')
    .option('--per-day <n>', 'a number, or policy')
    .action((channel: AlertChannel, options: ChannelOptions) =>
      change(context, { channels: { [channel]: channelOf(options) } }),
    )
  alerts
    .command('backlog')
    .description('be told when the oldest ready task of a stage is older than this')
    .argument('<stage>')
    .argument('<time>', '30min, 2h, or off')
    .action((stage: string, time: string) =>
      change(context, { backlogMs: { [stage]: time === 'off' ? null : parseDuration(time, 'time') } }),
    )
}

async function change(context: Context, input: AlertPolicyInput): Promise<void> {
  const problems = alertPolicyProblems(input).map(({ name, problem }) => `${name}: ${problem}`)
  if (problems.length > 0)
    throw usageError(problems.join('; '), 'nothing was changed; correct it and try again')
  await withDatabase(context, async ({ pool }) => {
    if (await putAlertPolicy(pool, input)) {
      context.terminal.out('changed; it counts from the next look of the monitor on')
    } else {
      context.terminal.note('nothing was different')
      context.exitCode = exitCodes.nothingDone
    }
  })
}

function policyOf(options: SetOptions): AlertPolicyInput {
  const { perDay, reserve, zone, digestAt, quiet, gap } = options
  if (Object.keys(options).length === 0)
    throw usageError('nothing to change was named', 'see npx leasehold alerts set --help')
  return {
    perDay,
    reserve,
    zone,
    digestAt,
    quiet: quiet === undefined ? undefined : quietOf(quiet),
    gapMs: gap === undefined ? undefined : parseDuration(gap, '--gap'),
  }
}

function quietOf(text: string): { from: string; until: string } | null {
  if (text === 'off') return null
  const [, from, until] = /^(\d\d:\d\d)-(\d\d:\d\d)$/.exec(text.trim()) ?? []
  if (from === undefined || until === undefined)
    throw usageError(`--quiet: '${text}' is no stretch of hours`, 'write 22:00-07:00, or off')
  return { from, until }
}

function ruleOf(options: RuleOptions): AlertRuleInput | null {
  const { tell, minAge, remindAfter, channels, recovery, throughQuiet, remove } = options
  if (Object.keys(options).length === 0)
    throw usageError('nothing to change was named', 'see npx leasehold alerts rule --help')
  if (remove === true) return null
  return {
    tell,
    minAgeMs: minAge === undefined ? undefined : parseDuration(minAge, '--min-age'),
    remindAfterMs:
      remindAfter === undefined
        ? undefined
        : remindAfter === 'never'
          ? null
          : parseDuration(remindAfter, '--remind-after'),
    channels:
      channels === undefined
        ? undefined
        : channels === 'all'
          ? null
          : channels.split(',').map((one) => one.trim() as AlertChannel),
    recovery,
    throughQuiet,
  }
}

function channelOf({ on, off, perDay }: ChannelOptions): { enabled?: boolean; perDay?: number | null } {
  if (on === true && off === true) throw usageError('--on and --off exclude each other', 'name one of them')
  if (on === undefined && off === undefined && perDay === undefined)
    throw usageError('nothing to change was named', 'see npx leasehold alerts channel --help')
  if (perDay !== undefined && perDay !== 'policy' && !/^\d{1,6}$/.test(perDay))
    throw usageError(`--per-day: '${perDay}' is no number`, 'write a number, or policy')
  return {
    ...(on === true && { enabled: true }),
    ...(off === true && { enabled: false }),
    ...(perDay !== undefined && { perDay: perDay === 'policy' ? null : Number(perDay) }),
  }
}
