/**
 * How the commands about schedules refuse: a name that nobody has, a timing that cannot be.
 */
import { ConfigError } from '@leasehold/queue'
import { type Timing, type TimingInput, parseTiming } from '@leasehold/schedules'
import { exitCodes } from '../exit-codes.ts'
import { CommandError, usageError } from '../failure.ts'

/** For a name that nobody has. */
export function scheduleNotFound(name: string): CommandError {
  const message = `There is no schedule '${name.slice(0, 100)}'`
  return new CommandError(
    'SCHEDULE_NOT_FOUND',
    message,
    'all schedules: npx leasehold schedules',
    exitCodes.notFound,
  )
}

const optionOf: Readonly<Record<string, string>> = {
  cron: '--cron',
  everyMs: '--every',
  zone: '--zone',
  anchor: '--anchor',
}

/** Parses what was given by --cron, --every, --zone and --anchor. Throws a usage error with all that is wrong. */
export function timingOption(input: TimingInput): Timing {
  try {
    return parseTiming(input)
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    const problems = error.problems.map(({ name, problem }) => `${optionOf[name] ?? name}: ${problem}`)
    throw usageError(
      problems.join('\n'),
      'try it without writing anything: npx leasehold schedules next --cron "30 2 * * *" --zone Europe/London',
    )
  }
}
