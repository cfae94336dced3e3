/**
 * `leasehold schedules add | remove | enable | disable | fire`: the parts that change something.
 *
 * Invariant: a timing is parsed before anything is written, and what the manifest keeps is not changed here, because the
 * next `leasehold apply` would undo it.
 */
import {
  databaseClock,
  disableSchedule,
  enableSchedule,
  listSchedules,
  listStages,
  putSchedule,
  removeSchedule,
} from '@leasehold/queue'
import { type WhichSlot, computeNextSlots, fireSchedule, localTime, nextFirings } from '@leasehold/schedules'
import { type Command, Option } from 'commander'
import type { Pool } from 'pg'
import { type Context, show, withDatabase } from '../context.ts'
import { exitCodes } from '../exit-codes.ts'
import { parseExactly } from '../exact-json.ts'
import { CommandError, usageError } from '../failure.ts'
import { wholeNumber } from '../options.ts'
import { moment, parseDuration, parseMoment } from '../terminal/time.ts'
import { scheduleNotFound, timingOption } from './schedule-refusals.ts'

interface AddOptions {
  readonly stage: string
  readonly cron?: string
  readonly every?: string
  readonly anchor?: string
  readonly zone: string
  readonly payload: string
  readonly priority?: number
  readonly key?: string
  readonly catchUp: 'skip' | 'one' | 'all'
  readonly jitter: string
  readonly disabled?: boolean
  readonly firedBy: 'scheduler' | 'timer'
  readonly json?: boolean
}

/** Adds the commands below `schedules`. */
export function addScheduleVerbs(group: Command, context: Context): void {
  group
    .command('add')
    .description('make a schedule, or change one that was made here; a new timing holds from now on')
    .argument('<name>')
    .requiredOption('--stage <stage>', 'where its tasks go')
    .option('--cron <expression>', 'minute hour day month weekday, or @daily …')
    .option('--every <time>', 'instead: 30s, 15min, 6h')
    .option('--anchor <moment>', 'with --every: slots are whole multiples from here (default: 1970-01-01)')
    .option('--zone <zone>', 'an IANA name, such as Europe/London', 'UTC')
    .option('--payload <json>', 'of each task', '{}')
    .option('--priority <0-9>', 'higher first (default: the stage’s)', wholeNumber(0, 9))
    .option('--key <key>', 'skip a slot while an earlier task with this key is unfinished')
    .addOption(
      new Option('--catch-up <how>', 'slots missed by more than two minutes: none, the latest, or all fire')
        .choices(['skip', 'one', 'all'])
        .default('one'),
    )
    .option('--jitter <time>', 'put each slot off by up to this', '0s')
    .option('--disabled', 'make it switched off')
    .addOption(
      new Option('--fired-by <who>', 'timer: by systemd or cron, so that no scheduler is missed')
        .choices(['scheduler', 'timer'])
        .default('scheduler'),
    )
    .option('--json', 'print one JSON document')
    .action((name: string, options: AddOptions) => add(context, name, options))
  group
    .command('remove')
    .description('remove a schedule; its tasks and its history stay')
    .argument('<name>')
    .action((name: string) => remove(context, name))
  group
    .command('enable')
    .description('switch a schedule on; what passed meanwhile is not made up for')
    .argument('<name>')
    .action((name: string) => turn(context, name, true))
  group
    .command('disable')
    .description('switch a schedule off')
    .argument('<name>')
    .action((name: string) => turn(context, name, false))
  group
    .command('fire')
    .description('fire a slot, once, whoever else fires it: for systemd timers, and by hand')
    .argument('<name>')
    .option('--slot <moment>', 'now (the latest slot that has passed) or a certain one', 'now')
    .option('--extra', 'one task more, outside of its slots')
    .option('--json', 'print one JSON document')
    .action((name: string, options: { slot: string; extra?: boolean; json?: boolean }) =>
      fire(context, name, options),
    )
}

async function add(context: Context, name: string, options: AddOptions): Promise<void> {
  const everyMs = options.every === undefined ? null : parseDuration(options.every, '--every')
  const anchor =
    options.anchor === undefined ? undefined : parseMoment(options.anchor, '--anchor', new Date())
  const cron = options.cron ?? null
  const timing = timingOption({ cron, everyMs, zone: options.zone, ...(anchor && { anchor }) })
  const payload = parsePayload(options.payload)
  const jitterMs = parseDuration(options.jitter, '--jitter')
  await withDatabase(context, async ({ pool }) => {
    await refuseOfManifest(pool, name, 'change')
    const result = await putSchedule(pool, {
      name,
      stage: options.stage,
      cron,
      everyMs,
      ...(anchor && { anchor }),
      zone: options.zone,
      payload,
      priority: options.priority ?? null,
      key: options.key ?? null,
      catchUp: options.catchUp,
      jitterMs,
      enabled: options.disabled !== true,
      firedBy: options.firedBy,
      owner: 'cli',
    })
    await computeNextSlots(pool, [name])
    if ((await listStages(pool, { stage: options.stage })).length === 0)
      context.terminal.note(
        `stage ${options.stage} is not known yet: slots are skipped until a runner registers it`,
      )
    const [next] = nextFirings(timing, await databaseClock(pool), 1)
    if (result === 'unchanged') context.exitCode = exitCodes.nothingDone
    show(context, options.json, { name, result, next }, () => {
      const first = next === undefined ? '' : `, next ${localTime(options.zone, next)} (${moment(next)})`
      return `schedule ${name} ${result}${options.disabled ? ', disabled' : first}`
    })
  })
}

function parsePayload(text: string): unknown {
  try {
    return parseExactly(text)
  } catch (error) {
    throw usageError(
      `--payload is no JSON: ${(error as Error).message}`,
      'quote it for the shell: \'{"id": 7}\'',
    )
  }
}

/** Its owner may be told from the list; an unknown schedule is nobody's. */
async function refuseOfManifest(pool: Pool, name: string, what: string): Promise<void> {
  const [known] = await listSchedules(pool, { name })
  if (known?.owner !== 'manifest') return
  throw new CommandError(
    'USAGE',
    `schedule '${name}' is kept by the manifest`,
    `${what} it there and run: npx leasehold apply`,
    exitCodes.usage,
  )
}

async function remove(context: Context, name: string): Promise<void> {
  await withDatabase(context, async ({ pool }) => {
    await refuseOfManifest(pool, name, 'remove')
    if (!(await removeSchedule(pool, name))) throw scheduleNotFound(name)
    context.terminal.out(`schedule ${name} removed`)
  })
}

async function turn(context: Context, name: string, on: boolean): Promise<void> {
  await withDatabase(context, async ({ pool }) => {
    const turned = await (on ? enableSchedule : disableSchedule)(pool, name)
    if (turned === null) throw scheduleNotFound(name)
    await computeNextSlots(pool, [name])
    const state = on ? 'enabled' : 'disabled'
    if (turned) return context.terminal.out(`schedule ${name} is ${state}`)
    context.terminal.note(`schedule ${name} was ${state} already`)
    context.exitCode = exitCodes.nothingDone
  })
}

/** A slot that had been fired before is no failure: what was asked for is so, and a timer may ask again. */
async function fire(
  context: Context,
  name: string,
  options: { slot: string; extra?: boolean; json?: boolean },
): Promise<void> {
  await withDatabase(context, async ({ pool }) => {
    const which: WhichSlot = options.extra
      ? 'extra'
      : options.slot === 'now'
        ? 'now'
        : parseMoment(options.slot, '--slot', await databaseClock(pool))
    const answer = await fireSchedule(pool, name, which, (slot, waitMs) =>
      context.terminal.note(
        `slot ${moment(slot)} of ${name} is due in ${Math.ceil(waitMs / 1_000)} s by the database's clock: waiting`,
      ),
    )
    if (answer === null) throw scheduleNotFound(name)
    const { result, slot, reason, taskId } = answer
    show(context, options.json, { schedule: name, ...answer }, () => {
      const task = taskId === null ? '' : `: task ${taskId}`
      const why = reason === null ? '' : ` (${reason})`
      if (result === 'before') return `slot ${moment(slot)} of ${name} was dealt with before${task}${why}`
      return `slot ${moment(slot)} of ${name} ${result}${task}${why}`
    })
    if (result === 'skipped') {
      context.terminal.note('nothing was submitted; one task outside of its slots: --extra')
      if (reason === 'unknown_stage') context.exitCode = exitCodes.failed
    }
  })
}
