/**
 * `leasehold logs`: what a task's handler said, stored with the task.
 *
 * Invariant: every stored line is shown once, in order. `--follow` ends when the task has ended and its last lines were
 * shown, or with Ctrl-C; with --json it prints a line of JSON for each log line.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { type LogLine, TaskNotFoundError, getTask, taskLogs } from '@leasehold/queue'
import type { Command } from 'commander'
import type { Pool } from 'pg'
import { onShutdown } from '@leasehold/service'
import { type Context, withDatabase } from '../context.ts'
import { parseId } from '../options.ts'
import { printable, safeJson } from '../terminal/printable.ts'
import type { Terminal } from '../terminal/terminal.ts'
import { exactMoment } from '../terminal/time.ts'

const pollMs = 500
const pageLines = 1_000

/** Adds the command to the program. */
export function addLogs(program: Command, context: Context): void {
  program
    .command('logs')
    .description('the stored log lines of a task')
    .argument('<id>', 'the task', parseId)
    .option('-f, --follow', 'go on until the task has ended')
    .option('--json', 'print one JSON document (with --follow: one line of JSON for each log line)')
    .action((id: string, options: { follow?: boolean; json?: boolean }) =>
      withDatabase(context, ({ pool }) =>
        options.follow === true
          ? follow(context, pool, id, options.json === true)
          : showAll(context, pool, id, options.json === true),
      ),
    )
}

async function showAll(context: Context, pool: Pool, id: string, json: boolean): Promise<void> {
  const task = await getTask(pool, id)
  if (task === null) throw new TaskNotFoundError(id)
  const all: LogLine[] = []
  let shown = 0
  for await (const lines of pages(pool, id, '0')) {
    if (json) all.push(...lines)
    else for (const line of lines) context.terminal.out(asText(context.terminal, line))
    shown += lines.length
  }
  if (json) context.terminal.out(safeJson(all))
  else if (shown === 0) context.terminal.note(`Task ${id} (${task.state}) has logged nothing.`)
}

async function follow(context: Context, pool: Pool, id: string, json: boolean): Promise<void> {
  const stop = new AbortController()
  const unwatch = onShutdown({ drain: () => stop.abort(), stopNow: () => stop.abort() })
  try {
    let after = '0'
    while (!stop.signal.aborted) {
      // Looked up before its lines are read, so that nothing said before its end is missed.
      const task = await getTask(pool, id)
      if (task === null) throw new TaskNotFoundError(id)
      for await (const lines of pages(pool, id, after)) {
        for (const line of lines)
          context.terminal.out(json ? safeJson(line, 0) : asText(context.terminal, line))
        after = lines.at(-1)?.line ?? after
      }
      if (task.endedAt !== null) {
        context.terminal.note(`Task ${id} is ${task.state}.`)
        return
      }
      await delay(pollMs, undefined, { signal: stop.signal }).catch(() => {})
    }
  } finally {
    unwatch()
  }
}

async function* pages(pool: Pool, id: string, after: string): AsyncGenerator<LogLine[]> {
  let afterLine = after
  for (;;) {
    const lines = await taskLogs(pool, id, { afterLine, limit: pageLines })
    if (lines.length > 0) yield lines
    if (lines.length < pageLines) return
    afterLine = lines.at(-1)?.line ?? afterLine
  }
}

function asText(terminal: Terminal, line: LogLine): string {
  const level = line.level.padEnd(6)
  const painted =
    line.level === 'error' || line.level === 'stderr'
      ? terminal.paint('red', level)
      : line.level === 'warn'
        ? terminal.paint('yellow', level)
        : terminal.paint('dim', level)
  // Further lines of a message are indented, so that none can pass for a log line of its own.
  const message = line.message
    .split(/\r?\n/)
    .map((part) => printable(part, 40_000))
    .join('\n    ')
  const fields =
    line.fields === null ? '' : ` ${terminal.paint('dim', printable(safeJson(line.fields, 0), 4_000))}`
  return `${terminal.paint('dim', exactMoment(line.at))} ${painted} ${message}${fields}`
}
