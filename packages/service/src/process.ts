/**
 * The life of a process: how main.ts starts, ends, and reacts to signals.
 *
 * Invariant: exit codes mean something (`processExitCodes`). The first SIGTERM or SIGINT drains, the second stops at once.
 * Libraries install no handlers and never exit; they are given an AbortSignal.
 */
import { ConfigError, LeaseholdError } from '@leasehold/queue'
import { writeSync } from 'node:fs'

/**
 * How a daemon ends. A service manager starts a failed one again; the others it must leave alone
 * (`RestartPreventExitStatus=2 5`): starting them again changes nothing, or takes a slot away from its new holder.
 */
export const processExitCodes = {
  /** It was told to end, or to drain, and has. */
  done: 0,
  failed: 1,
  /** The arguments or the environment cannot work. */
  misconfigured: 2,
  /** Another process has taken its slot. (3 and 4 are answers of `leasehold` commands.) */
  slotTaken: 5,
} as const

/** What to do on the first and on the second signal. Neither may throw; they usually abort a signal. */
export interface ShutdownHandlers {
  readonly drain: (signal: NodeJS.Signals) => void
  readonly stopNow: (signal: NodeJS.Signals) => void
}

// Ctrl-C reaches the whole terminal group and npm passes it on as well: the same wish arrives twice.
const defaultEchoMs = 250

/**
 * Watches SIGTERM and SIGINT; answers with a function that stops watching.
 *
 * A signal within `echoMs` of the first one is its echo and ignored. Signals after the second repeat `stopNow`.
 */
export function onShutdown(
  handlers: ShutdownHandlers,
  { echoMs = defaultEchoMs, now = () => performance.now() }: { echoMs?: number; now?: () => number } = {},
): () => void {
  let firstAt: number | null = null
  const listen = (signal: NodeJS.Signals): void => {
    if (firstAt === null) {
      firstAt = now()
      handlers.drain(signal)
    } else if (now() - firstAt >= echoMs) {
      handlers.stopNow(signal)
    }
  }
  process.on('SIGTERM', listen).on('SIGINT', listen)
  return () => void process.off('SIGTERM', listen).off('SIGINT', listen)
}

/**
 * Runs a program. Its number becomes the exit code once nothing keeps the process alive any more.
 *
 * What it throws is printed to standard error and ends the process at once, whatever is still open: a LeaseholdError by
 * its message, which names the next step, anything else with its stack. The exit code is one of `processExitCodes`.
 */
export async function runMain(main: () => Promise<number | void>): Promise<void> {
  try {
    const code = await main()
    if (typeof code === 'number') process.exitCode = code
  } catch (error) {
    writeSync(2, `${describeFailure(error)}\n`)
    process.exit(exitCodeOf(error))
  }
}

const told = new Set<string>()

/**
 * Tells the process that started this one, where it has opened a channel: the keeper of a developer's machine, or PM2
 * (`wait_ready`). Each word once; who listens no longer is no error.
 */
export function tellParent(word: 'ready'): void {
  if (told.has(word)) return
  told.add(word)
  if (process.connected) process.send?.(word, undefined, undefined, () => {})
}

function exitCodeOf(error: unknown): number {
  if (error instanceof ConfigError) return processExitCodes.misconfigured
  const taken = error instanceof LeaseholdError && error.code === 'SLOT_TAKEN'
  return taken ? processExitCodes.slotTaken : processExitCodes.failed
}

function describeFailure(error: unknown): string {
  if (error instanceof LeaseholdError) return `${error.message} [${error.code}]`
  const connection = connectionAdvice(error)
  if (connection !== null) return connection
  return error instanceof Error ? (error.stack ?? error.message) : String(error)
}

/** The commonest first failure deserves more than a stack trace. */
function connectionAdvice(error: unknown): string | null {
  if (!(error instanceof Error) || !('code' in error) || typeof error.code !== 'string') return null
  const advice = `Check DATABASE_URL, and that the server runs and lets this user in. [${error.code}]`
  if (['ECONNREFUSED', 'ENOTFOUND', 'ETIMEDOUT'].includes(error.code)) {
    return `The database cannot be reached: ${error.message || error.code}. ${advice}`
  }
  return /^(28...|3D000)$/.test(error.code)
    ? `The database refuses the connection: ${error.message}. ${advice}`
    : null
}
