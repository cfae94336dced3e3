/**
 * One run of a program in a process group of its own, from its start until nothing of the group is left.
 *
 * Invariant: when `runProgram` has answered, no process of the group lives, whether the program ended by itself or was
 * aborted (SIGTERM, then SIGKILL). Processes that left the group on purpose (setsid) are not followed; systemd's control
 * group takes those. What an exit code means is command-stage.ts'.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { setTimeout as delay } from 'node:timers/promises'
import { type Guard, guarded } from './guard.ts'
import type { Output, StreamName } from './output.ts'
import { endGroup, isAlive } from './process-group.ts'

export interface Program {
  /** The program's file and its arguments. */
  readonly command: readonly string[]
  readonly directory: string
  readonly env: Readonly<Record<string, string>>
  /** For its standard input, which is closed after it. */
  readonly input: string
}

export interface ProgramEnd {
  readonly exitCode: number | null
  readonly signal: NodeJS.Signals | null
  readonly durationMs: number
  /** It ended and left processes behind, which were ended. */
  readonly leftProcesses: boolean
}

/** How long output may still be on its way when all processes of the group are gone. */
const drainMs = 1000

/** Runs a program to its end. Throws what `spawn` says when no process can be made. */
export async function runProgram(
  program: Program,
  output: Output,
  guard: Guard,
  { signal, graceMs }: { readonly signal: AbortSignal; readonly graceMs: number },
): Promise<ProgramEnd> {
  const startedAt = performance.now()
  const child = start(program, guard)
  const exit = new Promise<Pick<ProgramEnd, 'exitCode' | 'signal'>>((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', (exitCode, signal) => resolve({ exitCode, signal }))
  })
  const closed = new Promise<void>((resolve) => child.once('close', () => resolve()))
  for (const name of ['stdout', 'stderr'] as const) read(child, name, output)
  feed(child, program.input)
  if (child.pid === undefined) return { ...(await exit), durationMs: 0, leftProcesses: false }
  const group = child.pid
  guard.began(group)
  const abort = (): void => void endGroup(group, graceMs)
  if (signal.aborted) abort()
  signal.addEventListener('abort', abort, { once: true })
  const end = await exit
  const durationMs = Math.round(performance.now() - startedAt)
  signal.removeEventListener('abort', abort)
  const leftProcesses = isAlive(group)
  if (leftProcesses) await endGroup(group, graceMs)
  await Promise.race([closed, delay(drainMs, undefined, { ref: false })])
  child.stdout?.destroy()
  child.stderr?.destroy()
  output.end()
  guard.ended(group)
  return { ...end, durationMs, leftProcesses: leftProcesses && !signal.aborted }
}

function start({ command, directory, env }: Program, guard: Guard): ChildProcess {
  const [file, args] = guarded(command)
  return spawn(file, args, {
    cwd: directory,
    env,
    stdio: ['pipe', 'pipe', 'pipe', guard.pipe()],
    detached: true,
  })
}

function read(child: ChildProcess, name: StreamName, output: Output): void {
  child[name]?.on('data', (piece: Buffer) => output.add(name, piece)).on('error', () => {})
}

/** Not every program reads its input: a pipe that nobody empties breaks, which is no fault. */
function feed(child: ChildProcess, input: string): void {
  child.stdin?.on('error', () => {})
  child.stdin?.end(input)
}
