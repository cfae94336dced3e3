/**
 * Every command that reads can answer a program: `--json` is there unless a command is known to change, to run, or to print
 * a file.
 */
import { Readable } from 'node:stream'
import type { Command } from 'commander'
import { expect, test } from 'vitest'
import { createProgram } from '../src/program.ts'

/** They change something, run something, or print a file for another program. A command that reads does not belong here. */
const withoutJson = [
  'alerts backlog',
  'alerts channel',
  'alerts retry',
  'alerts rule',
  'alerts set',
  'background keep',
  'background start',
  'background stop',
  'control',
  'db start',
  'db stop',
  'dev',
  'monitor',
  'pause',
  'pm2 print',
  'resume',
  'runner',
  'scheduler',
  'schedules disable',
  'schedules enable',
  'schedules remove',
  'start',
  'supervisor print',
  'systemd restart',
]

function leaves(command: Command, path: readonly string[] = []): [name: string, leaf: Command][] {
  if (command.commands.length === 0) return [[path.join(' '), command]]
  return command.commands.flatMap((one) => leaves(one, [...path, one.name()]))
}

test('every command that reads takes --json', () => {
  const silent = {
    isTty: false,
    columns: 80,
    out: () => {},
    note: () => {},
    paint: (_: unknown, text: string) => text,
  }
  const program = createProgram({ environment: {}, terminal: silent, stdin: Readable.from([]), exitCode: 0 })
  const without = leaves(program).filter(([, leaf]) => !leaf.options.some(({ long }) => long === '--json'))
  expect(without.map(([name]) => name).toSorted()).toEqual(withoutJson)
})
