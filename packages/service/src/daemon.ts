/**
 * The shell around every daemon: signals, log, systemd, the exit. What a daemon does is handed in.
 *
 * Invariants: READY only when the daemon says that it works; what ends it is told once and decides the exit code (runMain);
 * the first signal ends it in order and the second at once; nothing that a library left running keeps the process.
 */
import { readFileSync } from 'node:fs'
import { describeError } from '@leasehold/queue'
import type { Config } from './config.ts'
import { type Logger, createLogger } from './log.ts'
import { onShutdown, processExitCodes, runMain, tellParent } from './process.ts'
import { beginStart, notifier } from './systemd.ts'
import { Watchdog } from './watchdog.ts'

/** What makes one daemon different from another. */
export interface DaemonProgram<Told extends { readonly config: Config }> {
  /** Its role, in each line of the log. */
  readonly name: string
  /** The `import.meta.url` of a file directly below the package's `src`. */
  readonly home: string
  /** Ends the noting of signals while the program was loaded, and says whether one came. */
  readonly toldBefore: () => boolean
  /** Reads and checks all that the daemon is told. Throws ConfigError. */
  readonly readTold: () => Told | Promise<Told>
  /** Works until `life.stop` aborts, or until there is nothing more to do. Rejects with what must end the process. */
  readonly work: (told: Told, life: DaemonLife) => Promise<void>
}

/** What a daemon may ask of its shell. Nothing here throws. */
export interface DaemonLife {
  /** Aborts at the first signal. Rejecting with its reason is an end in order. */
  readonly stop: AbortSignal
  /** Resolves when `stop` aborts. */
  readonly stopped: Promise<void>
  readonly log: Logger
  /** The version of the daemon's package. */
  readonly version: string
  readonly watchdog: Watchdog
  /** One line for `systemctl status`. */
  status(text: string): void
  /** It does its work from now on; only the first call counts. */
  ready(): void
  /** It is about to end although nobody sent a signal. */
  stopping(): void
  /** What the second signal does from now on, instead of ending the process at once. */
  onSecondSignal(act: () => void): void
  /** What is said about a database that is not ready, as withReadyDatabase of @leasehold/postgres asks for it. */
  readonly told: {
    onWaiting(error: unknown): void
    onNewer(schema: { readonly databaseVersion: string | null; readonly programVersion: string | null }): void
  }
}

/** After the end, what a handler or a library left running ends with the process. */
const lingerMs = 500

/** Runs a daemon to its end. */
export async function runDaemon<Told extends { readonly config: Config }>(
  program: DaemonProgram<Told>,
): Promise<void> {
  await runMain(async () => {
    const stopping = new AbortController()
    let second = endAtOnce
    const unwatch = onShutdown({ drain: () => stopping.abort(), stopNow: () => second() })
    if (program.toldBefore()) stopping.abort()
    try {
      const told = await program.readTold()
      const log = createLogger({ level: told.config.log.level, name: program.name })
      if (!stopping.signal.aborted) await live(program, told, log, stopping.signal, (act) => (second = act))
    } finally {
      unwatch()
      setTimeout(() => process.exit(), lingerMs).unref()
    }
  })
}

async function live<Told extends { readonly config: Config }>(
  { name, home, work }: DaemonProgram<Told>,
  told: Told,
  log: Logger,
  stop: AbortSignal,
  onSecondSignal: (act: () => void) => void,
): Promise<void> {
  const systemd = notifier(process.env)
  stop.addEventListener('abort', () => systemd.stopping())
  const watchdog = new Watchdog(systemd)
  const start = beginStart(systemd)
  systemd.status('waiting for the database')
  try {
    await work(told, {
      stop,
      stopped: new Promise((resolve) => stop.addEventListener('abort', () => resolve(), { once: true })),
      log,
      version: versionOf(home),
      watchdog,
      status: (text) => systemd.status(text),
      ready: () => {
        start.ready()
        tellParent('ready')
      },
      stopping: () => systemd.stopping(),
      onSecondSignal,
      told: {
        onWaiting(error) {
          const { code, message } = describeError(error)
          systemd.status(`waiting for the database: ${message}`)
          log.warn({ event: 'start.waiting', code, message }, 'the database cannot be used yet; trying again')
        },
        onNewer({ databaseVersion: database, programVersion: knows }) {
          log.warn(
            { event: 'schema.newer', database, program: knows },
            'the schema is newer than this program, which can work with it; deploy the newer one',
          )
        },
      },
    })
  } catch (error) {
    if (stop.aborted && error === stop.reason) return // told to end before it had begun
    const { code, message } = describeError(error)
    log.error({ event: `${name}.fault`, code, message }, `the ${name} ended`)
    await start.failed(error, stop)
    throw error
  } finally {
    watchdog.stop()
    start.end()
  }
}

function endAtOnce(): void {
  process.exit(processExitCodes.failed)
}

function versionOf(home: string): string {
  const { version } = JSON.parse(readFileSync(new URL('../package.json', home), 'utf8')) as {
    version: string
  }
  return version
}
