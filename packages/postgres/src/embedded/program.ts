/**
 * Starting PostgreSQL's own programs as ordinary child processes.
 *
 * Invariant: they never inherit this process's environment, because variables such as PGDATA, PGPORT or LC_ALL would
 * change what they do, nor its working directory, which their account may not be able to enter.
 */
import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { LeaseholdError } from '@leasehold/queue'
import { errorCode } from '../error-code.ts'
import type { Account } from './account.ts'
import type { Binaries } from './binaries.ts'

/** What a PostgreSQL program is given as its environment. */
export const programEnvironment: NodeJS.ProcessEnv = { PATH: '/usr/local/bin:/usr/bin:/bin', LC_ALL: 'C' }

/** Runs a program to its end; throws LeaseholdError 'EMBEDDED' with what it said when it fails. */
export async function runProgram(
  binaries: Binaries,
  program: string,
  args: readonly string[],
  account: Account,
): Promise<void> {
  try {
    await promisify(execFile)(join(binaries.binDir, program), args, {
      env: programEnvironment,
      cwd: '/',
      ...account,
    })
  } catch (cause) {
    throw new LeaseholdError('EMBEDDED', `${program} failed: ${whatItSaid(cause)}`, { cause })
  }
}

function whatItSaid(cause: unknown): string {
  if (!(cause instanceof Error)) return String(cause)
  const stderr = 'stderr' in cause && typeof cause.stderr === 'string' ? cause.stderr.trim() : ''
  return stderr === '' ? cause.message : stderr
}

/** Whether a process with this id exists, whoever owns it. */
export function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return errorCode(error) === 'EPERM'
  }
}

/** The command line of a process with single spaces between its arguments, empty when there is none. */
export async function commandLine(pid: number): Promise<string> {
  try {
    // Small container images have /proc but no ps; macOS has ps but no /proc.
    const raw = await readFile(`/proc/${pid}/cmdline`, 'utf8')
    return raw.replaceAll('\0', ' ').trim()
  } catch {
    return promisify(execFile)('ps', ['-ww', '-o', 'args=', '-p', String(pid)]).then(
      ({ stdout }) => stdout.trim(),
      () => '',
    )
  }
}
