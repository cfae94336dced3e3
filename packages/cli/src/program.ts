/**
 * The command line: all commands of `leasehold`, and how a run of one ends.
 *
 * Invariant: `run` answers with an exit code and never throws; whatever a command throws is shown once, with a hint.
 * What the commands do is in commands/, one file for each group.
 */
import { Command, CommanderError } from 'commander'
import { addBackground } from './commands/background.ts'
import { addBench } from './commands/bench.ts'
import { addAlerts } from './commands/alerts.ts'
import { addApply } from './commands/apply.ts'
import { addCheck } from './commands/check.ts'
import { addDaemonCommands } from './commands/daemons.ts'
import { addDatabaseCommands } from './commands/database.ts'
import { addDev } from './commands/dev.ts'
import { addDoctor } from './commands/doctor.ts'
import { addDrain } from './commands/drain.ts'
import { addHousekeeping } from './commands/housekeeping.ts'
import { addRetention } from './commands/retention.ts'
import { addSchedules } from './commands/schedules.ts'
import { addStageCommands, addStageVerbs } from './commands/stages.ts'
import { addStart } from './commands/start.ts'
import { addStatus } from './commands/status.ts'
import { addSubmit } from './commands/submit.ts'
import { addTaskCommands } from './commands/tasks.ts'
import { addTaskVerbs } from './commands/verbs.ts'
import { addExport } from './commands/export.ts'
import { addLogs } from './commands/logs.ts'
import { addRuns } from './commands/runs.ts'
import { addProcessManagers } from './commands/process-managers.ts'
import { addSystemd } from './commands/systemd.ts'
import { addWorkers } from './commands/workers.ts'
import type { Context } from './context.ts'
import { exitCodes, exitCodesHelp, type ExitCode } from './exit-codes.ts'
import { toFailure } from './failure.ts'
import { printable, safeJson } from './terminal/printable.ts'
import { version } from './version.ts'

/** Runs one command line, without the names of node and program. */
export async function run(args: readonly string[], context: Context): Promise<ExitCode> {
  try {
    await createProgram(context).parseAsync([...args], { from: 'user' })
    return context.exitCode
  } catch (error) {
    // The parser has printed its own complaint, and help is no failure.
    if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.ok : exitCodes.usage
    const failure = toFailure(error)
    tell(context, args.includes('--json'), failure)
    if (failure.code === 'UNEXPECTED' && error instanceof Error) context.terminal.note(error.stack ?? '')
    return failure.exitCode
  }
}

function tell(context: Context, json: boolean, failure: ReturnType<typeof toFailure>): void {
  const { code, message, hint, exitCode } = failure
  if (json) return context.terminal.note(safeJson({ error: { code, message, hint, exitCode } }))
  // Our own messages have lines of their own (a configuration's problems); stored text in them is escaped line by line.
  const lines = message.split('\n').map((line) => printable(line, 4_000))
  context.terminal.note(`${context.terminal.paint('red', 'error:')} ${lines.join('\n')}`)
  context.terminal.note(`${context.terminal.paint('cyan', 'hint:')} ${printable(hint)}`)
}

/** The whole command line. */
export function createProgram(context: Context): Command {
  const program = new Command('leasehold')
    .description('A Postgres-native work queue: submit, watch, mend, run.')
    .version(version)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => context.terminal.out(text.trimEnd()),
      writeErr: (text) => context.terminal.note(text.trimEnd()),
    })
    .showHelpAfterError('hint: add --help to see how the command is used')
    .addHelpText('afterAll', exitCodesHelp)
  program.commandsGroup('Start:')
  addStart(program, context)
  addDatabaseCommands(program, context)
  addDev(program, context)
  addDaemonCommands(program, context)
  addBackground(program, context)
  program.commandsGroup('Look:')
  addCheck(program, context)
  addStatus(program, context)
  addStageCommands(program, context)
  addWorkers(program, context)
  addTaskCommands(program, context)
  addLogs(program, context)
  addRuns(program, context)
  addExport(program, context)
  addAlerts(program, context)
  addDoctor(program, context)
  addBench(program, context)
  addHousekeeping(program, context)
  addRetention(program, context)
  program.commandsGroup('Do:')
  addApply(program, context)
  addSchedules(program, context)
  addSubmit(program, context)
  addTaskVerbs(program, context)
  addStageVerbs(program, context)
  addDrain(program, context)
  program.commandsGroup('Install:')
  addSystemd(program, context)
  addProcessManagers(program, context)
  return program
}
