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
import type { RunStatus } from '@leasehold/pipeline-leads'
import type { Command } from 'commander'
import { type Context, show, withDatabase } from '../context.ts'
import { runNotFound } from '../failure.ts'
import { readLeadRun } from '../pipeline.ts'
import { wholeNumber } from '../options.ts'
import { printable } from '../terminal/printable.ts'
import { facts, table } from '../terminal/table.ts'
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
  /** What the lead pipeline says of it; null for a run of another pipeline. */
  readonly leads: RunStatus | null
}

const unfinished = ['running', 'ready', 'waiting', 'scheduled'] as const

async function readRun(tx: Db, runId: string): Promise<RunDetail> {
  const stages = await runProgress(tx, runId)
  const leads = await readLeadRun(tx, runId)
  if (stages.length === 0 && leads === null) throw runNotFound(runId)
  const holdups: Holdup[] = []
  for (const { stage } of stages.filter((one) => one.open > 0)) {
    for (const state of unfinished) {
      const [task] = await listTasks(tx, { runId, stage, state, limit: 1 })
      if (task === undefined) continue
      holdups.push({ stage, taskId: task.taskId, ...(await explainTask(tx, task.taskId)) })
    }
  }
  return { runId, open: stages.reduce((sum, one) => sum + one.open, 0), stages, holdups, leads }
}

function runPage(terminal: Terminal, { runId, open, stages, holdups, leads }: RunDetail): string {
  const title = (text: string): string => terminal.paint('bold', text)
  const state = open > 0 ? `${open} unfinished` : 'ended'
  const progress = table(
    terminal,
    ['STAGE', 'SUBMITTED', 'DONE', 'DEAD', 'CANCELLED', 'OPEN'],
    stages.map((one) => [one.stage, one.submitted, one.done, one.dead, one.cancelled, one.open]),
  )
  const parts = [`${title(`Run ${printable(runId)}`)}: ${state}\n${progress}`]
  if (leads !== null) parts.push(`${title('Leads')}\n${leadFacts(terminal, leads)}`)
  if (holdups.length > 0) {
    const reasons = holdups.map((one) => holdupLines(terminal, one))
    parts.push(`${title('Where it stands')}\n${reasons.join('\n')}`)
  }
  return parts.join('\n\n')
}

function holdupLines(terminal: Terminal, one: Holdup): string {
  const what = `${one.stage}, ${one.state}, e.g. task ${one.taskId}`
  const next = terminal.paint('cyan', `→ ${printable(asCommands(one.nextStep))}`)
  return `${printable(what)}\n      ${printable(one.reason)}\n      ${next}`
}

function leadFacts(terminal: Terminal, run: RunStatus): string {
  const { rejectedRows, notes } = run
  return facts(terminal, [
    ['state', run.state],
    ['leads', `${run.leads} of ${run.target}`],
    [
      'candidates',
      `${run.candidates} of ${run.scanned} rows (${run.blocked} blocked, ${run.duplicates} duplicates)`,
    ],
    ['researched', `${run.researched}, ${run.qualified} qualified`],
    ['contacts searched', String(run.searched)],
    ...rejectedRows.map(({ line, problem }) => ['rejected', `line ${line}: ${problem}`] as const),
    ...(run.rejected > rejectedRows.length ? [['rejected', `${run.rejected} lines in all`] as const] : []),
    ...notes.map((note) => ['note', note] as const),
  ])
}
