/**
 * `leasehold runner`, `monitor`, `scheduler` and `control`: this process becomes the daemon.
 *
 * Only translates options; the daemon reads the environment, checks its configuration and decides.
 */
import type { Command } from 'commander'
import type { Context } from '../context.ts'
import { exitCodes, type ExitCode } from '../exit-codes.ts'
import { wholeNumber } from '../options.ts'
import { become } from '../processes/become.ts'
import { controlEntry, monitorEntry, runnerEntry, schedulerEntry } from '../processes/entries.ts'

interface RunnerOptions {
  readonly config?: string
  readonly stage?: string[]
  readonly module?: string
  readonly slot?: string
  readonly concurrency?: number
  readonly run?: string
}

interface ControlOptions {
  readonly host?: string
  readonly port?: number
}

/** Adds the commands to the program. */
export function addDaemonCommands(program: Command, context: Context): void {
  program
    .command('runner')
    .description(
      'work on stages until it is stopped: the first SIGTERM or Ctrl-C drains, the second stops now',
    )
    .option('--config <file>', 'the manifest that declares the worker of --slot (docs/manifest.md)')
    .option('--stage <stages...>', 'the stages to serve (default: all of the module)')
    .option('--module <file|package>', 'where the stages are defined (default: the lead pipeline)')
    .option('--slot <slot>', 'its stable name: a process that takes it over frees what the earlier one held')
    .option('--concurrency <n>', 'tasks at once', wholeNumber(1, 10_000))
    .option('--run <run>', 'only tasks of this run (default: RUN_FILTER_ID)')
    .action(async (options: RunnerOptions) => {
      context.exitCode = toExitCode(await become(runnerEntry, runnerArguments(options), context.environment))
    })
  program
    .command('monitor')
    .description('watch: release what dead workers hold, notice what is wrong, send mail (see SMTP_*)')
    .action(async () => {
      context.exitCode = toExitCode(await become(monitorEntry, [], context.environment))
    })
  program
    .command('scheduler')
    .description('fire schedules; any number may run, each slot is fired once')
    .action(async () => {
      context.exitCode = toExitCode(await become(schedulerEntry, [], context.environment))
    })
  program
    .command('control')
    .description('answer what watches from outside: metrics for Prometheus, health checks (docs/control.md)')
    .option('--host <address>', 'an IP address of this machine (default: LEASEHOLD_CONTROL_HOST, 127.0.0.1)')
    .option(
      '--port <n>',
      'a port, 0 for any free one (default: LEASEHOLD_CONTROL_PORT, 7077)',
      wholeNumber(0, 65_535),
    )
    .action(async (options: ControlOptions) => {
      const environment = { ...context.environment, ...controlSettings(options) }
      context.exitCode = toExitCode(await become(controlEntry, [], environment))
    })
}

/** The runner daemon's own arguments; also used by `dev`. */
export function runnerArguments(options: RunnerOptions): string[] {
  return [
    ...(options.config === undefined ? [] : ['--config', options.config]),
    ...(options.stage ?? []).flatMap((stage) => ['--stage', stage]),
    ...(options.module === undefined ? [] : ['--module', options.module]),
    ...(options.slot === undefined ? [] : ['--slot', options.slot]),
    ...(options.concurrency === undefined ? [] : ['--concurrency', String(options.concurrency)]),
    ...(options.run === undefined ? [] : ['--run', options.run]),
  ]
}

/** The options as the settings that they stand for: what is wrong with them is said by the daemon. */
function controlSettings({ host, port }: ControlOptions): Record<string, string> {
  return {
    ...(host === undefined ? {} : { LEASEHOLD_CONTROL_HOST: host }),
    ...(port === undefined ? {} : { LEASEHOLD_CONTROL_PORT: String(port) }),
  }
}

/** Daemons end with 0, 1, 2 or 5 and mean the same by it. */
function toExitCode(code: number): ExitCode {
  if (code === exitCodes.ok || code === exitCodes.usage || code === exitCodes.slotTaken) return code
  return exitCodes.failed
}
