/**
 * Real processes of ours, started, watched and killed by tests.
 *
 * Invariant: whatever a file spawned is gone when the file ends, also when it was stopped with SIGSTOP or the file failed.
 * Processes see a bare environment plus what the test gives them, never the developer's DATABASE_URL.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { atFileEnd } from './file-end.ts'

/** How a process ended: its exit code, or the signal that ended it. */
export interface Exit {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

/** A running process. */
export interface TestProcess {
  readonly pid: number
  /** Settles once, when the process has ended and all its output was read. */
  readonly exit: Promise<Exit>
  /** Standard output and error so far, interleaved as they came. */
  output(): string
  /**
   * The first line that matches, from the beginning of the output on or, with `after`, from that offset on.
   * Rejects when the process ends or the time passes without one, and then shows the output.
   */
  waitForLine(pattern: RegExp, options?: { timeoutMs?: number; after?: number }): Promise<string>
  kill(signal?: NodeJS.Signals): void
}

/** Program and environment; `script` is run with the pinned Node, relative to the repository's root. */
export interface SpawnOptions {
  readonly script: string
  readonly args?: readonly string[]
  readonly env?: Readonly<Record<string, string | undefined>>
  readonly cwd?: string
  readonly nodeOptions?: readonly string[]
}

const repository = fileURLToPath(new URL('../../', import.meta.url))
const living = new Set<ChildProcess>()

atFileEnd(async () => {
  const ends = [...living].map((child) => new Promise((ended) => child.once('close', ended)))
  killAll()
  await Promise.all(ends)
})
// A worker that is ended from outside has no afterAll.
process.once('exit', killAll)

function killAll(): void {
  for (const child of living) child.kill('SIGKILL')
}

/** Starts a TypeScript program of this repository. It runs until it ends by itself, is killed, or the file is over. */
export function spawnProcess(options: SpawnOptions): TestProcess {
  const inherited = Object.fromEntries(
    ['PATH', 'HOME', 'TMPDIR', 'LANG', 'NODE_COMPILE_CACHE'].map((name) => [name, process.env[name]]),
  )
  const script = resolve(repository, options.script)
  const args = ['--conditions=development', ...(options.nodeOptions ?? []), script, ...(options.args ?? [])]
  const child = spawn(process.execPath, args, {
    cwd: options.cwd ?? repository,
    env: { ...inherited, ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  living.add(child)
  const output = new Output()
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => output.append(chunk))
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => output.append(chunk))
  const exit = new Promise<Exit>((ended, failed) => {
    child.once('error', failed)
    child.once('close', (code, signal) => {
      living.delete(child)
      output.end()
      ended({ code, signal })
    })
  })
  return {
    pid: child.pid ?? -1,
    exit,
    output: () => output.text,
    kill: (signal = 'SIGTERM') => void child.kill(signal),
    waitForLine: (pattern, wait = {}) =>
      output.waitForLine(pattern, wait.timeoutMs ?? 90_000, wait.after ?? 0),
  }
}

class Output {
  text = ''
  private ended = false
  private readonly watchers = new Set<() => void>()

  append(chunk: string): void {
    this.text += chunk
    for (const look of this.watchers) look()
  }

  end(): void {
    this.ended = true
    for (const look of this.watchers) look()
  }

  waitForLine(pattern: RegExp, timeoutMs: number, after: number): Promise<string> {
    return new Promise((found, failed) => {
      const settle = (act: () => void): void => {
        this.watchers.delete(look)
        clearTimeout(timer)
        act()
      }
      const fail = (why: string): void =>
        settle(() => failed(new Error(`${why} before a line matched ${pattern}; it said:\n${this.text}`)))
      const look = (): void => {
        const line = this.lines(after).find((candidate) => pattern.test(candidate))
        if (line !== undefined) settle(() => found(line))
        else if (this.ended) fail('the process ended')
      }
      const timer = setTimeout(() => fail(`${timeoutMs} ms passed`), timeoutMs)
      this.watchers.add(look)
      look()
    })
  }

  /** Whole lines only: a last piece without its newline may still grow, unless the process has ended. */
  private lines(after: number): string[] {
    const lines = this.text.slice(after).split('\n')
    return this.ended ? lines : lines.slice(0, -1)
  }
}
