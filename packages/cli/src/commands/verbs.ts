/**
 * `leasehold cancel`, `retry`, `run-now`: the operator's verbs, for one task or many.
 *
 * Invariant: each id is tried on its own and reported on its own line; one that fails does not keep the others back.
 * The exit code is the gravest of all: failed, then not found, then done, then nothing done.
 */
import {
  LeaseholdError,
  TaskHeldBackError,
  TaskNotFoundError,
  cancelTask,
  listStages,
  listTasks,
  retryTask,
  runNow,
} from '@leasehold/queue'
import type { Command } from 'commander'
import type { Pool } from 'pg'
import { type Context, show, withDatabase } from '../context.ts'
import { type ExitCode, exitCodes } from '../exit-codes.ts'
import { CommandError, usageError } from '../failure.ts'
import { collectIds, wholeNumber } from '../options.ts'
import { printable } from '../terminal/printable.ts'

/** How it went for one task. */
interface Report {
  readonly taskId: string
  readonly result: 'done' | 'nothing-done' | 'not-found' | 'failed'
  readonly message: string
}

interface Verb {
  readonly act: (pool: Pool, id: string) => Promise<boolean>
  readonly done: string
  readonly nothing: string
}

/** Adds the commands to the program. */
export function addTaskVerbs(program: Command, context: Context): void {
  program
    .command('cancel')
    .description('end tasks in whatever state they are; a running one is taken from its worker')
    .argument('<ids...>', 'the tasks', collectIds)
    .option('--reason <text>', 'kept with the task')
    .option('--json', 'print one JSON document')
    .action((ids: string[], options: { reason?: string; json?: boolean }) =>
      applyToIds(context, ids, options.json, {
        act: (pool, id) => cancelTask(pool, id, options.reason),
        done: 'cancelled',
        nothing: 'had ended already',
      }),
    )
  program
    .command('retry')
    .description('give dead or cancelled tasks all their attempts again')
    .argument('[ids...]', 'the tasks', collectIds)
    .option('--dead', 'all dead tasks of --stage instead of ids')
    .option('--stage <stage>', 'the stage, for --dead')
    .option('--limit <n>', 'with --dead: at most this many, the newest first', wholeNumber(1, 1_000_000))
    .option('--json', 'print one JSON document')
    .action((ids: string[], options: RetryOptions) => retry(context, ids, options))
  program
    .command('run-now')
    .description('start tasks as soon as a worker is free, ahead of all others')
    .argument('<ids...>', 'the tasks', collectIds)
    .option('--json', 'print one JSON document')
    .action((ids: string[], options: { json?: boolean }) =>
      applyToIds(context, ids, options.json, {
        act: runNow,
        done: 'is first in line',
        nothing: 'runs already or has ended',
      }),
    )
}

interface RetryOptions {
  readonly dead?: boolean
  readonly stage?: string
  readonly limit?: number
  readonly json?: boolean
}

const retryVerb: Verb = { act: retryTask, done: 'is tried again', nothing: 'is unfinished or done' }

function retry(context: Context, ids: string[], options: RetryOptions): Promise<void> {
  const { dead, stage, limit, json } = options
  if (dead !== true) {
    if (ids.length === 0)
      throw usageError('No task is named', 'name ids, or --dead --stage STAGE for all dead ones')
    if (stage !== undefined || limit !== undefined) {
      throw usageError('--stage and --limit go with --dead', 'name ids without them, or add --dead')
    }
    return applyToIds(context, ids, json, retryVerb)
  }
  if (ids.length > 0)
    throw usageError('--dead and ids exclude each other', 'name ids, or --dead --stage STAGE')
  if (stage === undefined) throw usageError('--dead needs a stage', 'add --stage STAGE')
  return retryDead(context, stage, limit ?? Number.POSITIVE_INFINITY, json)
}

/** Walks from the newest dead task to the oldest: one that dies again meanwhile is not met twice. */
function retryDead(context: Context, stage: string, limit: number, json: boolean | undefined): Promise<void> {
  return withDatabase(context, async ({ pool, read }) => {
    if ((await read((tx) => listStages(tx, { stage }))).length === 0) {
      throw new CommandError(
        'UNKNOWN_STAGE',
        `Stage '${printable(stage)}' does not exist`,
        'all stages: npx leasehold stages',
        exitCodes.notFound,
      )
    }
    const reports: Report[] = []
    let beforeId: string | undefined
    while (reports.length < limit) {
      const page = Math.min(500, limit - reports.length)
      const filter = {
        stage,
        state: 'dead' as const,
        limit: page,
        ...(beforeId !== undefined && { beforeId }),
      }
      const tasks = await read((tx) => listTasks(tx, filter))
      for (const task of tasks) reports.push(await applyToOne(pool, task.taskId, retryVerb))
      beforeId = tasks.at(-1)?.taskId
      if (tasks.length < page) break
    }
    if (reports.length === 0 && json !== true) context.terminal.note(`Stage ${stage} has no dead task.`)
    report(context, reports, json)
  })
}

function applyToIds(
  context: Context,
  ids: readonly string[],
  json: boolean | undefined,
  verb: Verb,
): Promise<void> {
  return withDatabase(context, async ({ pool }) => {
    const reports: Report[] = []
    for (const id of new Set(ids)) reports.push(await applyToOne(pool, id, verb))
    report(context, reports, json)
  })
}

async function applyToOne(pool: Pool, taskId: string, verb: Verb): Promise<Report> {
  try {
    const moved = await verb.act(pool, taskId)
    return moved
      ? { taskId, result: 'done', message: verb.done }
      : { taskId, result: 'nothing-done', message: verb.nothing }
  } catch (error) {
    if (error instanceof TaskNotFoundError) return { taskId, result: 'not-found', message: 'does not exist' }
    if (error instanceof TaskHeldBackError) {
      return { taskId, result: 'nothing-done', message: `is held back: npx leasehold why ${taskId}` }
    }
    // Anything else (the database is away, the role is missing) will fail for all of them alike.
    if (!(error instanceof LeaseholdError)) throw error
    return { taskId, result: 'failed', message: error.message }
  }
}

function report(context: Context, reports: readonly Report[], json: boolean | undefined): void {
  show(context, json, reports, () =>
    reports.map(({ taskId, message }) => `task ${taskId} ${printable(message)}`).join('\n'),
  )
  context.exitCode = gravest(reports)
}

function gravest(reports: readonly Report[]): ExitCode {
  const has = (result: Report['result']): boolean => reports.some((one) => one.result === result)
  if (has('failed')) return exitCodes.failed
  if (has('not-found')) return exitCodes.notFound
  return has('done') ? exitCodes.ok : exitCodes.nothingDone
}
