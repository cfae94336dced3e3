/**
 * The channel command: a delivery as JSON on the standard input of a program.
 *
 * Invariant: no shell sees the arguments; the program gets a bare environment without our secrets and a process group of
 * its own, and when its time is up the whole group is gone. Exit code 0 means taken, anything else is tried again;
 * whether it had told somebody when its time was up nobody knows.
 */
import { spawn } from 'node:child_process'
import { oneLine } from '../plain-text.ts'
import { type Channel, type Delivery, DeliveryError, asJson } from './channel.ts'

/** A program with its arguments, and what it sees as its environment. */
export interface CommandSettings {
  /** At least the program. */
  readonly argv: readonly string[]
  readonly env: Readonly<Record<string, string>>
  /** Default 30 s. */
  readonly timeoutMs?: number
}

const defaultTimeoutMs = 30_000
/** Between asking and killing. */
const graceMs = 2_000
const maxOutput = 2_000

/** Opens the channel. */
export function commandChannel(settings: CommandSettings): Channel {
  return { name: 'command', send: (delivery, signal) => run(settings, delivery, signal) }
}

function run(settings: CommandSettings, delivery: Delivery, signal: AbortSignal): Promise<null> {
  const [program = '', ...args] = settings.argv
  const timeoutMs = settings.timeoutMs ?? defaultTimeoutMs
  return new Promise((taken, failed) => {
    const child = spawn(program, args, {
      env: settings.env,
      detached: true,
      stdio: ['pipe', 'pipe', 'pipe'],
    })
    let output = ''
    let why: string | null = null
    const end = (because: string): void => {
      why ??= because
      killGroup(child.pid, 'SIGTERM')
      setTimeout(() => killGroup(child.pid, 'SIGKILL'), graceMs).unref()
    }
    const timer = setTimeout(() => end(`took longer than ${timeoutMs / 1_000} s`), timeoutMs)
    const abort = (): void => end('was ended with the monitor')
    signal.addEventListener('abort', abort, { once: true })
    if (signal.aborted) abort()
    const over = (error: string | null): void => {
      clearTimeout(timer)
      signal.removeEventListener('abort', abort)
      if (why !== null) killGroup(child.pid, 'SIGKILL')
      for (const stream of [child.stdout, child.stderr]) stream.destroy()
      if (error === null) taken(null)
      else failed(new DeliveryError(error, { doubtful: why !== null }))
    }
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (chunk: string) => {
        output = (output + chunk).slice(-maxOutput)
      })
    }
    // It may end without having read its input.
    child.stdin.on('error', () => {})
    child.stdin.end(asJson(delivery, new Date()))
    child.once('error', (error) => over(`the command cannot be started: ${error.message}`))
    child.once('exit', (code, killedBy) => {
      if (why === null && code === 0) return over(null)
      const how = why ?? (killedBy === null ? `ended with ${code}` : `was ended by ${killedBy}`)
      over(`the command ${how}${output === '' ? '' : `: ${oneLine(output, 300)}`}`)
    })
  })
}

/** Of a group that is gone there is nothing to kill. */
function killGroup(pid: number | undefined, signal: NodeJS.Signals): void {
  if (pid === undefined) return
  try {
    process.kill(-pid, signal)
  } catch {
    // ESRCH
  }
}
