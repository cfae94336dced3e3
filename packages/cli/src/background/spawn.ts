/**
 * Starting a keeper and waiting for what it starts: each process has shown that it works, or is named with how it ended.
 *
 * Invariant: who is told that everything runs can rely on it; a process that dies in its first second is no success.
 */
import { spawn } from 'node:child_process'
import { mkdirSync, openSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Environment } from '@leasehold/service'
import { exitCodes } from '../exit-codes.ts'
import { CommandError } from '../failure.ts'
import { definedOnly, nodeArguments } from '../processes/become.ts'
import { cliEntry } from '../processes/entries.ts'
import { ask, type KeeperState, type KeptMember } from './control.ts'

const lookEveryMs = 100
/** Looks for a keeper that holds the folder and does not answer. */
const unansweredAtMost = 50

/** The keeper's process, once it was started. */
export interface SpawnedKeeper {
  readonly pid: number | undefined
  /** Its exit code; undefined while it lives. */
  readonly ended: () => number | null | undefined
  readonly end: Promise<void>
  /** What it has said itself, since it was started. */
  readonly said: () => string
  /** It may outlive this command. */
  readonly leave: () => void
}

/** Starts a keeper, which ends by itself where there is one. */
export function spawnKeeper(environment: Environment, folder: string, config: string | null): SpawnedKeeper {
  mkdirSync(join(folder, 'logs'), { recursive: true })
  const log = keeperLog(folder)
  const from = statSync(log, { throwIfNoEntry: false })?.size ?? 0
  const output = openSync(log, 'a')
  const args = ['background', 'keep', '--dir', folder, ...(config === null ? [] : ['--config', config])]
  const child = spawn(process.execPath, [...nodeArguments(cliEntry), ...args], {
    cwd: folder,
    env: definedOnly(environment),
    stdio: ['ignore', output, output],
    detached: true,
  })
  let code: number | null | undefined
  const end = new Promise<void>((resolve) => {
    child.once('exit', (ended) => {
      code = ended
      resolve()
    })
  })
  return {
    pid: child.pid,
    ended: () => code,
    end,
    said: () => {
      const text = readFileSync(log)
      return text.subarray(text.length < from ? 0 : from).toString()
    },
    leave: () => child.unref(),
  }
}

/** Waits for the keeper, whichever won, and for what it started. Throws CommandError 'NOT_STARTED' when it has ended. */
export async function untilBegun(folder: string, keeper: SpawnedKeeper): Promise<KeeperState> {
  let unanswered = 0
  for (;;) {
    const state = await ask(folder, 'list')
    if (state !== null && state.pid !== keeper.pid) return state
    const begun = state === null ? null : await ask(folder, 'begun')
    if (begun !== null) {
      if (begun.phase === 'stopping') await keeper.end
      keeper.leave()
      return begun
    }
    const code = keeper.ended()
    if (code !== undefined && (code !== exitCodes.nothingDone || ++unanswered > unansweredAtMost)) {
      throw new CommandError(
        'NOT_STARTED',
        `nothing runs: ${keeper.said().trim().split('\n').slice(-8).join('\n')}`,
        `mend that and start again; everything it said: ${keeperLog(folder)}`,
        code === exitCodes.usage ? exitCodes.usage : exitCodes.failed,
      )
    }
    await delay(lookEveryMs)
  }
}

function keeperLog(folder: string): string {
  return join(folder, 'logs', 'keeper.log')
}

/** Throws CommandError 'NOT_STARTED' or 'NOT_AT_WORK' unless every process works, naming those that do not. */
export function refuseDead(folder: string, state: KeeperState): void {
  const ended = state.members.filter(({ failures }) => failures > 0)
  if (ended.length > 0) throw notStarted(folder, state, ended)
  const slow = state.members.filter(({ ready }) => !ready)
  if (slow.length > 0) throw notAtWork(folder, state, slow)
}

function notStarted(folder: string, state: KeeperState, ended: readonly KeptMember[]): CommandError {
  const blocks = ended.map(({ name, lastEnd, lastLines }) =>
    [`${name} ${lastEnd}`, ...lastLines.map((line) => `    ${line}`)].join('\n'),
  )
  const stopping = state.phase === 'stopping'
  const rest = stopping ? 'everything is stopped' : 'the others run, and these are tried again'
  return new CommandError(
    'NOT_STARTED',
    `${ended.length} of ${state.members.length} processes ended as soon as they were started; ${rest}:\n${blocks.join('\n')}`,
    stopping
      ? `mend that and start again; logs: ${join(folder, 'logs')}`
      : `mend that; look: scripts/status; end everything: scripts/stop-all; logs: ${join(folder, 'logs')}`,
    stopping ? exitCodes.usage : exitCodes.failed,
  )
}

function notAtWork(folder: string, state: KeeperState, slow: readonly KeptMember[]): CommandError {
  const names = slow.map(({ name }) => name).join(', ')
  return new CommandError(
    'NOT_AT_WORK',
    `${slow.length} of ${state.members.length} processes were started and have not been seen at work: ${names}`,
    `look: scripts/status; end everything: scripts/stop-all; logs: ${join(folder, 'logs')}`,
    exitCodes.failed,
  )
}
