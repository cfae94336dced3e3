/**
 * Any existing program as a stage: payload on its standard input, its exit code the outcome, its output the log.
 *
 * Nothing is rewritten and no shell is in between unless the command is one. Exit codes mean what sysexits.h says: 0 done,
 * 75 not now, 65 and 78 (and the shell's 126 and 127) never, everything else failed. What a program writes outside the
 * database happens at least once, so it is given the task's id and fence.
 */
import {
  defineStage,
  type Duration,
  type Outcome,
  type Stage,
  type TaskContext,
  writeExact,
} from '@leasehold/queue'
import { z } from 'zod'
import { findExecutable } from './executable.ts'
import { Guard } from './guard.ts'
import { Output } from './output.ts'
import { type ProgramEnd, runProgram } from './program.ts'

/** What `Commands.stage` takes; beside the program it is the settings of any stage. */
export interface CommandStageOptions {
  readonly name: string
  /** The program and its arguments. */
  readonly command: readonly string[]
  /** The working directory; a program named by a path (`./blog`) is looked for from here. */
  readonly directory: string
  /** The program's whole environment; the task's facts are added as LEASEHOLD_TASK_…. */
  readonly env: Readonly<Record<string, string>>
  readonly concurrency?: number
  readonly timeout?: Duration
  readonly priority?: number
  readonly retry?: { readonly attempts?: number; readonly from?: Duration; readonly to?: Duration }
  readonly limits?: NonNullable<Stage['limits']>
  readonly expectedWorkers?: number
}

/** What a program that was done leaves behind. */
export interface CommandResult {
  readonly exitCode: 0
  readonly signal: null
  readonly durationMs: number
  /** Of both streams, at most 20, oldest first. */
  readonly lastLines: readonly string[]
  /** The last line of standard output when it is a JSON object. */
  readonly output?: object
}

/** The program did not do its task. `retryable` false: another attempt would end in the same way. */
export class CommandFailedError extends Error {
  /** `exit_3`, `signal_SIGKILL`, `not_started`. */
  readonly code: string
  readonly retryable: boolean

  constructor(code: string, message: string, retryable: boolean) {
    super(message)
    this.name = 'CommandFailedError'
    this.code = code
    this.retryable = retryable
    this.stack = '' // the place in here tells nobody anything
  }
}

/** The programs of one process. */
export interface Commands {
  /** A stage whose handler is a program. Throws ValueRefusedError for settings that cannot work. */
  stage(options: CommandStageOptions): Stage
}

const neverAgain = new Map([
  [65, 'EX_DATAERR: the payload cannot be used'],
  [78, 'EX_CONFIG: the program is configured wrongly'],
  [126, 'a program could not be executed'],
  [127, 'a program was not found'],
])
const notNow = 75
const notNowAfterMs = 60_000

/** `graceMs`: between SIGTERM and SIGKILL (default 4 s, below the runner's own patience with aborted handlers). */
export function openCommands({ graceMs = 4000 }: { readonly graceMs?: number } = {}): Commands {
  const guard = new Guard(graceMs)
  return {
    stage({ command, directory, env, ...settings }) {
      return defineStage({
        ...settings,
        payload: z.unknown(),
        run: (ctx) => run({ command, directory, env }, ctx, guard, graceMs),
      })
    },
  }
}

async function run(
  { command, directory, env }: Pick<CommandStageOptions, 'command' | 'directory' | 'env'>,
  ctx: TaskContext,
  guard: Guard,
  graceMs: number,
): Promise<Outcome<CommandResult>> {
  const found = await findExecutable(command[0] ?? '', directory, env['PATH'] ?? '')
  if ('problem' in found)
    throw new CommandFailedError(
      'not_started',
      `'${command.join(' ')}' cannot be started: ${found.problem}`,
      false,
    )
  if (ctx.signal.aborted) return { outcome: 'retry', reason: 'aborted before it was started' }
  const output = new Output((stream, line) => (stream === 'stdout' ? ctx.log.info(line) : ctx.log.warn(line)))
  const program = {
    command: [found.file, ...command.slice(1)],
    directory,
    env: { ...env, ...taskVariables(ctx) },
    input: `${writeExact(ctx.payload)}\n`,
  }
  const end = await runProgram(program, output, guard, { signal: ctx.signal, graceMs }).catch(notStarted)
  if (end.leftProcesses) ctx.log.warn('the program ended and left processes behind; they were ended')
  return outcomeOf(end, output)
}

function taskVariables({ task, attempt, fence }: TaskContext): Record<string, string> {
  return {
    LEASEHOLD_TASK_ID: task.id,
    LEASEHOLD_TASK_STAGE: task.stage,
    LEASEHOLD_TASK_ATTEMPT: String(attempt),
    LEASEHOLD_TASK_FENCE: fence,
    ...(task.runId === undefined ? {} : { LEASEHOLD_TASK_RUN_ID: task.runId }),
    ...(task.key === undefined ? {} : { LEASEHOLD_TASK_KEY: task.key }),
  }
}

/** The machine may have no room for a process now; anything else (an argument that is too long) stays as it is. */
function notStarted(error: unknown): never {
  const { code = '', message } = error as NodeJS.ErrnoException
  const passing = ['EAGAIN', 'ENOMEM', 'EMFILE', 'ENFILE'].includes(code)
  throw new CommandFailedError('not_started', `no process could be made for it: ${message}`, passing)
}

function outcomeOf(end: ProgramEnd, output: Output): Outcome<CommandResult> {
  const { exitCode, signal, durationMs } = end
  const words = output.lastWords
  const said = words === '' ? 'it said nothing' : `it said at last:\n${words}`
  const after = `after ${(durationMs / 1000).toFixed(1)} s`
  if (exitCode === 0) {
    const result = output.result
    return {
      outcome: 'done',
      result: {
        exitCode,
        signal: null,
        durationMs,
        lastLines: output.lastLines,
        ...(result === undefined ? {} : { output: result }),
      },
    }
  }
  if (exitCode === notNow)
    return { outcome: 'snooze', afterMs: notNowAfterMs, reason: `exit code 75 (not now) ${after}; ${said}` }
  if (exitCode === null)
    throw new CommandFailedError(
      `signal_${signal}`,
      `the program was ended by ${signal} ${after}; ${said}`,
      true,
    )
  const why = neverAgain.get(exitCode)
  const meaning = why === undefined ? '' : ` (${why})`
  throw new CommandFailedError(
    `exit_${exitCode}`,
    `the program ended with exit code ${exitCode}${meaning} ${after}; ${said}`,
    why === undefined,
  )
}
