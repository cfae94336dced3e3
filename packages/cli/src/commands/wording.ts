/**
 * How states, reasons and advice are worded, the same on every page.
 *
 * The database advises in SQL, for those who have nothing else; here its advice is repeated as the command that does the
 * same. Nothing here reads or decides.
 */
import type { Explanation, TaskState } from '@leasehold/queue'
import { facts } from '../terminal/table.ts'
import type { Terminal } from '../terminal/terminal.ts'

/** The state in its colour, with the progress of what runs. */
export function stateText(terminal: Terminal, task: { state: TaskState; progress: number | null }): string {
  switch (task.state) {
    case 'running': {
      const percent = task.progress === null ? '' : ` ${Math.round(task.progress * 100)}%`
      return terminal.paint('cyan', `running${percent}`)
    }
    case 'done':
      return terminal.paint('green', 'done')
    case 'dead':
      return terminal.paint('red', 'dead')
    case 'cancelled':
      return terminal.paint('yellow', 'cancelled')
    default:
      return task.state
  }
}

/** State, reason and next step; also a part of `runs RUN`. */
export function explanation(terminal: Terminal, why: Explanation): string {
  return facts(terminal, [
    ['state', why.state],
    ['reason', `${why.reason} (${why.reasonCode})`],
    ['next', asCommands(why.nextStep)],
  ])
}

const commands: readonly (readonly [sql: RegExp, command: string])[] = [
  [/select leasehold\.cancel_task\((\d+)\)/, 'npx leasehold cancel $1'],
  [/select leasehold\.retry_task\((\d+)\)/, 'npx leasehold retry $1'],
  [/select leasehold\.run_now\((\d+)\)/, 'npx leasehold run-now $1'],
  [/select leasehold\.resume_stage\('([^']*)'\)/, 'npx leasehold resume $1'],
  [/select \* from leasehold\.explain_task\((\d+)\)/, 'npx leasehold why $1'],
  [/select \* from leasehold\.dead_workers/, 'npx leasehold workers --dead'],
]

/** Advice with SQL replaced by the commands that do the same. */
export function asCommands(advice: string): string {
  return commands.reduce((text, [sql, command]) => text.replace(sql, command), advice)
}
