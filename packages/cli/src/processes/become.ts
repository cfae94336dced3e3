/**
 * Turns this process into one of the daemons, so that `leasehold runner` and the daemon itself are the same process:
 * same pid, same signals, nothing in between that could survive or hide it.
 *
 * Refuses nothing: the daemon reads and checks its own configuration. Starting several as children is fleet.ts.
 */
import { spawn } from 'node:child_process'
import { constants } from 'node:os'
import { fileURLToPath } from 'node:url'
import type { Environment } from '@leasehold/service'

/** Node's own arguments for a program of ours: sources need the condition that finds sources, builds do not. */
export function nodeArguments(entry: URL): string[] {
  const path = fileURLToPath(entry)
  return path.endsWith('.ts')
    ? ['--conditions=development', '--disable-warning=ExperimentalWarning', path]
    : [path]
}

/** Goes on as another program; answers with its exit code only where a process cannot be replaced (Windows). */
export async function become(entry: URL, args: readonly string[], environment: Environment): Promise<number> {
  const all = [...nodeArguments(entry), ...args]
  if (process.execve !== undefined && process.platform !== 'win32') {
    process.execve(process.execPath, [process.execPath, ...all], definedOnly(environment))
  }
  const child = spawn(process.execPath, all, { stdio: 'inherit', env: definedOnly(environment) })
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => child.kill(signal))
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', (code, signal) =>
      resolve(code ?? 128 + (signal === null ? 0 : constants.signals[signal])),
    )
  })
}

/** An environment as the operating system takes it. */
export function definedOnly(environment: Environment): Record<string, string> {
  return Object.fromEntries(
    Object.entries(environment).filter((pair): pair is [string, string] => pair[1] !== undefined),
  )
}
