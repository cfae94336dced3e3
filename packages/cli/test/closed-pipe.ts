/**
 * Reads the first piece of a command's output and closes the pipe, as `head` does.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { bin } from './leasehold.ts'

/** The first piece of the output, and how the command ended after the pipe was closed. */
export async function readSome(
  args: readonly string[],
  url: string,
): Promise<{ head: string; stderr: string; code: number | null }> {
  const child = spawn(process.execPath, [bin, ...args], {
    env: { DATABASE_URL: url },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const ended = once(child, 'close') as Promise<[number | null]>
  let stderr = ''
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (stderr += chunk))
  const [head] = (await once(child.stdout, 'data')) as [Buffer]
  child.stdout.destroy()
  const [code] = await ended
  return { head: head.toString(), stderr, code }
}
