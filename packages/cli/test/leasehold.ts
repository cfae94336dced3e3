/**
 * Runs the real `leasehold` command as a process and waits for its end.
 *
 * It sees a bare environment plus what the test gives it, never the developer's DATABASE_URL.
 */
import { spawn } from 'node:child_process'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'

export const bin: string = fileURLToPath(new URL('../bin/leasehold.mjs', import.meta.url))
export const fixtureStages: string = fileURLToPath(new URL('fixtures/stages.ts', import.meta.url))

/** What a command said and how it ended. */
export interface Result {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs `leasehold ARGS`; `input` goes to its standard input. */
export async function leasehold(
  args: readonly string[],
  env: Readonly<Record<string, string>>,
  input = '',
): Promise<Result> {
  const { PATH = '', HOME = '' } = process.env
  const child = spawn(process.execPath, [bin, ...args], { env: { PATH, HOME, ...env } })
  const end = new Promise<number | null>((ended, failed) => {
    child.once('error', failed)
    child.once('close', ended)
  })
  child.stdin.on('error', () => {}) // It may end without having read its input.
  child.stdin.end(input)
  const [stdout, stderr, code] = await Promise.all([text(child.stdout), text(child.stderr), end])
  return { code, stdout, stderr }
}

/** A command that must succeed and print one JSON document. */
export async function leaseholdJson<T>(
  args: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<T> {
  const { code, stdout, stderr } = await leasehold([...args, '--json'], env)
  if (code !== 0) throw new Error(`leasehold ${args.join(' ')} ended with ${code}: ${stderr}`)
  return JSON.parse(stdout) as T
}
