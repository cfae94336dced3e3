/**
 * `leasehold runs`: the passes of pipelines, where each stands, and why it does not move.
 *
 * Counts come from the ledger; the reasons come from the newest unfinished task of each stage and state.
 * What a run has found is exported by export.ts.
 */
import {
  type Db,
  type Explanation,
  type RunStageProgress,
  type RunSummary,
  explainTask,
  listRuns,
  listTasks,
  runProgress,
} from '@leasehold/queue'
import type { Command } from 'commander'
import { type Context, show, withDatabase } from '../context.ts'
import { exitCodes } from '../exit-codes.ts'
import { CommandError } from '../failure.ts'
import { wholeNumber } from '../options.ts'
import { printable } from '../terminal/printable.ts'
import { table } from '../terminal/table.ts'
import type { Terminal } from '../terminal/terminal.ts'
import { moment } from '../terminal/time.ts'
import { asCommands } from './wording.ts'

/** Adds the command to the program. */
export function addRuns(program: Command, context: Context): void {
  program
    .command('runs')
    .description('runs, the newest first; with a run: its stages, and why it does not move')
    .argument('[run]', 'one run in detail')
    .option('--open', 'only those with unfinished tasks')
    .option('--limit <n>', 'at most this many', wholeNumber(1, 10_000), 50)
    .option('--json', 'print one JSON document')
    .action((run: string | undefined, options: { open?: boolean; limit: number; json?: boolean }) =>
      withDatabase(context, async ({ read }) => {
        if (run !== undefined) {
          const detail = await read((tx) => readRun(tx, run))
          show(context, options.json, detail, () => runPage(context.terminal, detail))
          return
        }
        const filter = { limit: options.limit, ...(options.open === true && { open: true }) }
        const runs = await read((tx) => listRuns(tx, filter))
        show(context, options.json, runs, () => runTable(context.terminal, runs))
      }),
    )
}

function runTable(terminal: Terminal, runs: readonly RunSummary[]): string {
  if (runs.length === 0) return 'No run matches. Tasks belong to one when they are submitted with a run_id.'
  return table(
    terminal,
    ['RUN', 'STARTED', 'STATE', 'SUBMITTED', 'DONE', 'DEAD', 'CANCELLED', 'OPEN', 'STAGES'],
    runs.map((run) => [
      run.runId,
      run.startedAt === null ? null : moment(run.startedAt),
      { shown: run.open > 0 ? terminal.paint('cyan', 'running') : terminal.paint('green', 'ended') },
      run.submitted,
      run.done,
      run.dead,
      run.cancelled,
      run.open,
      run.stages.join(', '),
    ]),
  )
}

/** Why the unfinished tasks of one stage stand where they stand: one of them as an example. */
interface Holdup extends Explanation {
  readonly stage: string
  readonly taskId: string
}

interface RunDetail {
  readonly runId: string
  readonly open: number
  readonly stages: readonly RunStageProgress[]
  readonly holdups: readonly Holdup[]
}

const unfinished = ['running', 'ready', 'waiting', 'scheduled'] as const

async function readRun(tx: Db, runId: string): Promise<RunDetail> {
  const stages = await runProgress(tx, runId)
  if (stages.length === 0) throw unknownRun(runId)
  const holdups: Holdup[] = []
  for (const { stage } of stages.filter((one) => one.open > 0)) {
    for (const state of unfinished) {
      const [task] = await listTasks(tx, { runId, stage, state, limit: 1 })
      if (task === undefined) continue
      holdups.push({ stage, taskId: task.taskId, ...(await explainTask(tx, task.taskId)) })
    }
  }
  return { runId, open: stages.reduce((sum, one) => sum + one.open, 0), stages, holdups }
}

/** For a run that has no task and is known to no pipeline. */
export function unknownRun(runId: string): CommandError {
  return new CommandError(
    'RUN_NOT_FOUND',
    `There is no run '${printable(runId, 200)}'`,
    'all runs: npx leasehold runs',
    exitCodes.notFound,
  )
}

function runPage(terminal: Terminal, { runId, open, stages, holdups }: RunDetail): string {
  const progress = table(
    terminal,
    ['STAGE', 'SUBMITTED', 'DONE', 'DEAD', 'CANCELLED', 'OPEN'],
    stages.map((one) => [one.stage, one.submitted, one.done, one.dead, one.cancelled, one.open]),
  )
  const state = open > 0 ? `${open} unfinished` : 'ended'
  const heading = `${terminal.paint('bold', `Run ${printable(runId)}`)}: ${state}`
  if (holdups.length === 0) return `${heading}\n${progress}`
  const reasons = table(
    terminal,
    ['STAGE', 'STATE', 'TASK', 'REASON', 'NEXT'],
    holdups.map((one) => [one.stage, one.state, one.taskId, one.reason, asCommands(one.nextStep)]),
  )
  return `${heading}\n${progress}\n\n${terminal.paint('bold', 'Where it stands')} (a task of each)\n${reasons}`
}
