/**
 * `leasehold housekeeping`: the quiet duties, when each ran, what it did; and a turn of one by hand.
 *
 * A turn by hand is the same as the monitor's, is recorded with it and takes its place: two processes never take one at
 * once. What is kept how long is retention.ts.
 */
import {
  type Deeds,
  type DutyRecord,
  crontabOf,
  databaseClock,
  duties,
  listHousekeeping,
  takeTurn,
} from '@leasehold/queue'
import type { Command } from 'commander'
import { hostname } from 'node:os'
import { type Context, show, withDatabase } from '../context.ts'
import { exitCodes } from '../exit-codes.ts'
import { CommandError } from '../failure.ts'
import { printable } from '../terminal/printable.ts'
import { type Cell, table } from '../terminal/table.ts'
import { relative } from '../terminal/time.ts'

/** Adds the command with its parts to the program. */
export function addHousekeeping(program: Command, context: Context): void {
  const group = program
    .command('housekeeping')
    .description('the quiet duties of the monitor: retention, partitions, vacuum …')
  group
    .command('list', { isDefault: true })
    .description('every duty: when it ran, how it ended, what it did, when it is due')
    .option('--json', 'print one JSON document')
    .action((options: { json?: boolean }) => list(context, options.json))
  group
    .command('run')
    .description('take a turn of a duty now, as the owner of the schema')
    .argument('<duty>', duties.map((duty) => duty.name).join(', '))
    .option('--json', 'print one JSON document')
    .action((name: string, options: { json?: boolean }) => run(context, name, options.json))
}

function list(context: Context, json: boolean | undefined): Promise<void> {
  return withDatabase(context, async ({ read }) => {
    const { now, records } = await read(async (tx) => ({
      now: await databaseClock(tx),
      records: await listHousekeeping(tx),
    }))
    const rows = duties.map((duty) => ({
      ...neverRun,
      schedule: crontabOf(duty),
      periodMs: duty.everyMinutes * 60_000,
      ...records.find((record) => record.duty === duty.name),
      duty: duty.name,
      what: duty.what,
    }))
    show(context, json, rows, () =>
      table(
        context.terminal,
        ['DUTY', 'SCHEDULE', 'LAST', 'OUTCOME', 'NEXT', 'TURNS', 'DID'],
        rows.map((row) => dutyRow(context, row, now)),
      ),
    )
  })
}

const neverRun: Omit<DutyRecord, 'duty' | 'schedule' | 'periodMs'> = {
  startedAt: null,
  startedBy: null,
  endedAt: null,
  succeededAt: null,
  nextAt: null,
  outcome: null,
  did: null,
  error: null,
  turns: 0,
  failuresInARow: 0,
  overdue: false,
}

function dutyRow(context: Context, row: DutyRecord & { what: string }, now: Date): Cell[] {
  const away = (at: Date | null): string | null =>
    at === null ? null : relative(now.getTime() - at.getTime())
  const last = row.outcome === 'failed' ? (row.error ?? '') : summary(row.did)
  return [
    row.duty,
    row.schedule,
    away(row.startedAt),
    { shown: outcome(context, row) },
    away(row.nextAt),
    row.turns,
    row.turns === 0 ? row.what : last,
  ]
}

function outcome({ terminal }: Context, { outcome: ending, overdue, failuresInARow }: DutyRecord): string {
  const shown = overdue ? `${ending ?? 'never ran'}, overdue` : (ending ?? 'never ran')
  if (overdue || ending === 'failed') {
    return terminal.paint('red', failuresInARow > 1 ? `${shown} ${failuresInARow} times` : shown)
  }
  return ending === 'done' ? terminal.paint('green', shown) : shown
}

/** What a turn did, without what it had no need to do. */
function summary(did: Deeds | null): string {
  const told = Object.entries(did ?? {}).filter(([, value]) => value !== 0 && value !== null)
  return told.length === 0 ? 'nothing to do' : told.map(([name, value]) => `${name} ${value}`).join(', ')
}

function run(context: Context, name: string, json: boolean | undefined): Promise<void> {
  const duty = duties.find((one) => one.name === name)
  if (duty === undefined) {
    const known = duties.map((one) => one.name).join(', ')
    const message = `There is no duty '${name.slice(0, 100)}'`
    throw new CommandError('USAGE', message, `one of ${known}`, exitCodes.usage)
  }
  return withDatabase(context, async ({ pool }) => {
    const did = await takeTurn(pool, duty, `${hostname()} pid ${process.pid}`)
    if (did === null) context.exitCode = exitCodes.nothingDone
    show(context, json, { duty: name, began: did !== null, did }, () =>
      did === null ? `${name}: another process is at it` : `${name}: ${printable(summary(did), 4_000)}`,
    )
  })
}
