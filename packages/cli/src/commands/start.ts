/**
 * `leasehold start`: the whole system at once, for a newcomer. With `--once` it ends after the run of the lead pipeline; else
 * everything keeps running until Ctrl-C.
 *
 * Only the options are here; what happens is in ../lead-run/start.ts, loaded when it is needed.
 */
import type { Command } from 'commander'
import type { Context } from '../context.ts'
import { wholeNumber } from '../options.ts'

/** The command line, checked. */
export interface StartOptions {
  readonly source?: string
  readonly city?: string
  readonly state?: string
  readonly country?: string
  readonly kind?: string
  readonly pms?: string
  readonly target: number
  readonly minScore?: number
  readonly once?: boolean
  readonly restart: boolean
}

/** Adds the command to the program. */
export function addStart(program: Command, context: Context): void {
  program
    .command('start')
    .description('start everything and run the lead pipeline: on the sample, or on your own directory')
    .option(
      '--source <file>',
      'a company directory: any CSV with a header; or the word claude: Claude searches the web (default: the sample)',
    )
    .option('--city <city>')
    .option('--state <state>')
    .option('--country <country>')
    .option('--kind <words>', 'kind of company: words looked for in name, industry, description')
    .option('--pms <product>', 'only companies that use this property-management system')
    .option('--target <n>', 'leads wanted', wholeNumber(1, 500_000), 25)
    .option('--min-score <n>', 'ICP score from which a company qualifies', wholeNumber(0, 100))
    .option('--once', 'end when the run has ended')
    .option('--no-restart', 'leave a process that died down, to watch what the others do about it')
    .action(async (options: StartOptions) => {
      const { startAll } = await import('../lead-run/start.ts')
      await startAll(context, options)
    })
}
