/**
 * `leasehold tasks`, `show`, `why`: find tasks, look at one, and learn why one is not running.
 *
 * Reads only. The reason why a task does not run is the database's (explain_task). What a task's page looks like is
 * task-page.ts.
 */
import {
  TaskNotFoundError,
  type TaskFilter,
  type TaskState,
  type TaskSummary,
  explainTask,
  isWalk,
  listTasks,
  longestWalk,
} from '@leasehold/queue'
import { type Command, Option } from 'commander'
import { type Context, show, withDatabase } from '../context.ts'
import { parseId, taskStates, wholeNumber } from '../options.ts'
import { table } from '../terminal/table.ts'
import type { Terminal } from '../terminal/terminal.ts'
import { relative } from '../terminal/time.ts'
import { readTaskPage, taskPage } from './task-page.ts'
import { explanation, stateText } from './wording.ts'

interface ListOptions {
  readonly stage?: string
  readonly state?: TaskState
  readonly run?: string
  readonly key?: string
  readonly before?: string
  readonly limit: number
  readonly json?: boolean
}

/** Adds the commands to the program. */
export function addTaskCommands(program: Command, context: Context): void {
  program
    .command('tasks')
    .description('tasks, the newest first')
    .option('--stage <stage>', 'only of this stage')
    .addOption(new Option('--state <state>', 'only in this state').choices(taskStates))
    .option('--run <run>', 'only of this run')
    .option('--key <key>', 'only with this key')
    .option('--before <id>', 'only older ones than this task: the next page', parseId)
    .option('--limit <n>', 'at most this many', wholeNumber(1, 10_000), 50)
    .option('--json', 'print one JSON document')
    .action((options: ListOptions) => list(context, options))
  program
    .command('show')
    .description('everything about a task: state, payload, attempts, result')
    .argument('<id>', 'the task', parseId)
    .option('--json', 'print one JSON document')
    .action((id: string, options: { json?: boolean }) =>
      withDatabase(context, async ({ read }) => {
        const page = await read((tx) => readTaskPage(tx, id))
        show(context, options.json, page, () => taskPage(context.terminal, page))
      }),
    )
  program
    .command('why')
    .description('why is a task not running? the one reason that holds it back, and what to do')
    .argument('<id>', 'the task', parseId)
    .option('--json', 'print one JSON document')
    .action((id: string, options: { json?: boolean }) =>
      withDatabase(context, async ({ read }) => {
        const why = await read((tx) => explainTask(tx, id))
        if (why.state === 'unknown') throw new TaskNotFoundError(id)
        show(context, options.json, { taskId: id, ...why }, () => explanation(context.terminal, why))
      }),
    )
}

function list(context: Context, options: ListOptions): Promise<void> {
  const filter: TaskFilter = {
    limit: options.limit,
    ...(options.stage !== undefined && { stage: options.stage }),
    ...(options.state !== undefined && { state: options.state }),
    ...(options.run !== undefined && { runId: options.run }),
    ...(options.key !== undefined && { key: options.key }),
    ...(options.before !== undefined && { beforeId: options.before }),
  }
  return withDatabase(context, async ({ read }) => {
    const tasks = await read((tx) => listTasks(tx, filter))
    show(context, options.json, tasks, () => taskTable(context.terminal, tasks))
    const last = tasks.at(-1)
    if (options.json !== true && last !== undefined && tasks.length === options.limit) {
      context.terminal.note(`There may be more: add --before ${last.taskId}`)
    } else if (options.json !== true && isWalk(filter)) {
      context.terminal.note(
        `Among the newest ${longestWalk.toLocaleString('en')} ids${options.before === undefined ? '' : ' before that one'}; older ones: --before ID`,
      )
    }
  })
}

function taskTable(terminal: Terminal, tasks: readonly TaskSummary[]): string {
  if (tasks.length === 0) return 'No task matches.'
  const now = Date.now()
  return table(
    terminal,
    ['ID', 'STAGE', 'STATE', 'SUBMITTED', 'ATTEMPT', 'RUN', 'KEY', 'TITLE OR LAST ERROR'],
    tasks.map((task) => [
      task.taskId,
      task.stage,
      { shown: stateText(terminal, task) },
      relative(now - task.submittedAt.getTime()),
      `${task.attempt}/${task.maxAttempts}`,
      task.runId,
      task.key,
      lastWords(task),
    ]),
  )
}

/** An error says more than a title; a task that is done has left its errors behind. */
function lastWords(task: TaskSummary): string | null {
  const error = task.state === 'done' ? null : task.lastError
  if (error === null) return task.title
  return [error.code, error.message].filter((part) => part !== undefined).join(': ')
}
