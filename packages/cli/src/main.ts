/**
 * The process behind bin/leasehold.mjs: gives a command its terminal and ends with its exit code.
 *
 * Only wires. A reader that closes the pipe early (`leasehold tasks | head`) ends the command quietly.
 */
import type { Context } from './context.ts'
import { exitCodes } from './exit-codes.ts'
import { run } from './program.ts'
import { openTerminal } from './terminal/terminal.ts'

for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(exitCodes.ok)
    throw error
  })
}

const context: Context = {
  environment: process.env,
  terminal: openTerminal(process.stdout, process.stderr),
  stdin: process.stdin,
  exitCode: exitCodes.ok,
}
process.exitCode = await run(process.argv.slice(2), context)
