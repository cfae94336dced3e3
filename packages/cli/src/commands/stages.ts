/**
 * `leasehold stages`, `pause`, `resume`: what each kind of work is doing, and its tap.
 *
 * A pause keeps new claims back; what runs goes on. Depths above a thousand may be the monitor's last sample and are
 * marked by a tilde.
 */
import { type StageHealth, databaseClock, listStages, pauseStage, resumeStage } from '@leasehold/queue'
import type { Command } from 'commander'
import { type Context, show, withDatabase } from '../context.ts'
import { exitCodes } from '../exit-codes.ts'
import { type Cell, table } from '../terminal/table.ts'
import type { Terminal } from '../terminal/terminal.ts'
import { duration, moment, parseMoment, rateText } from '../terminal/time.ts'

/** Adds the commands to the program. */
export function addStageCommands(program: Command, context: Context): void {
  program
    .command('stages')
    .description('every stage: its workers, its depths, what it waits for')
    .option('--json', 'print one JSON document')
    .action((options: { json?: boolean }) =>
      withDatabase(context, async ({ read }) => {
        const stages = await read((tx) => listStages(tx))
        show(context, options.json, stages, () => stageTable(context.terminal, stages))
      }),
    )
}

/** Adds the commands that change a stage. */
export function addStageVerbs(program: Command, context: Context): void {
  program
    .command('pause')
    .description('claim nothing more of a stage; what runs goes on')
    .argument('<stage>')
    .option('--until <moment>', 'end the pause by itself: +2h, 2026-11-21T22:00:00Z (default: until resumed)')
    .action((stage: string, options: { until?: string }) => pause(context, stage, options.until))
  program
    .command('resume')
    .description('let a paused stage go on')
    .argument('<stage>')
    .action((stage: string) => resume(context, stage))
}

/** The table of stages; also a part of `status`. */
export function stageTable(terminal: Terminal, stages: readonly StageHealth[]): string {
  if (stages.length === 0) return 'No stage is known yet. A runner registers its stages when it starts.'
  const titles = ['STAGE', 'STATUS', 'WORKERS', 'READY', 'RUNNING', 'SCHEDULED', 'WAITING', 'OLDEST READY']
  const rows = stages.map((stage) => stageRow(terminal, stage))
  if (stages.every(({ rate }) => rate === null)) return table(terminal, titles, rows)
  return table(
    terminal,
    [...titles, 'AT MOST'],
    stages.map(({ rate }, i) => [...rows[i]!, rate && rateText(rate)]),
  )
}

function stageRow(terminal: Terminal, stage: StageHealth): Cell[] {
  const depth = (count: number): Cell => (stage.exact || count <= 1_000 ? count : { shown: `~${count}` })
  const workers =
    stage.expectedWorkers > 0 ? `${stage.liveWorkers} of ${stage.expectedWorkers}` : String(stage.liveWorkers)
  return [
    stage.stage,
    { shown: stageStatus(terminal, stage) },
    workers,
    depth(stage.ready),
    stage.running,
    depth(stage.scheduled),
    depth(stage.waiting),
    stage.oldestReadyMs === null ? null : duration(stage.oldestReadyMs),
  ]
}

function stageStatus(terminal: Terminal, { status, pausedUntil, nextStartAt }: StageHealth): string {
  switch (status) {
    case 'no worker':
      return terminal.paint('red', status)
    case 'workers missing':
    case 'waiting for workers':
      return terminal.paint('yellow', status)
    case 'rate limited':
      return terminal.paint(
        'yellow',
        `rate limited, next at ${nextStartAt === null ? 'once' : moment(nextStartAt)}`,
      )
    case 'paused':
      return terminal.paint('yellow', pausedUntil === null ? 'paused' : `paused until ${moment(pausedUntil)}`)
    case 'working':
      return terminal.paint('green', status)
    case 'idle':
    case 'no worker, no work':
      return status
    default:
      return status satisfies never
  }
}

function pause(context: Context, stage: string, untilText: string | undefined): Promise<void> {
  return withDatabase(context, async ({ pool }) => {
    const until =
      untilText === undefined ? undefined : parseMoment(untilText, '--until', await databaseClock(pool))
    await pauseStage(pool, stage, until)
    const end = until === undefined ? `until: npx leasehold resume ${stage}` : `until ${moment(until)}`
    context.terminal.out(`stage ${stage} is paused ${end}`)
  })
}

function resume(context: Context, stage: string): Promise<void> {
  return withDatabase(context, async ({ pool }) => {
    const [before] = await listStages(pool, { stage })
    await resumeStage(pool, stage)
    if (before?.paused === false) {
      context.terminal.note(`stage ${stage} was not paused`)
      context.exitCode = exitCodes.nothingDone
      return
    }
    context.terminal.out(`stage ${stage} goes on`)
  })
}
