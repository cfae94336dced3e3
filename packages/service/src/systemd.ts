/**
 * Talking to systemd: ready, status, watchdog, stopping.
 *
 * Node has no datagram sockets of the Unix kind, so the message goes through libsystemd by way of koffi (microseconds,
 * NotifyAccess=main); without koffi through the program systemd-notify (milliseconds, NotifyAccess=all).
 * Invariant: outside of systemd nothing happens, and inside nothing here ever throws or delays the caller.
 */
import { execFile } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { ConfigError } from '@leasehold/queue'
import type { Environment } from './config.ts'

/** One process's line to its service manager. All methods return at once. */
export interface Notifier {
  readonly via: 'libsystemd' | 'systemd-notify' | 'none'
  /** Half of the time within which systemd wants to hear of us; null when it does not watch. */
  readonly watchdogIntervalMs: number | null
  ready(): void
  /** Not ready yet and not stuck: the start may take this much longer, counted from now. */
  extendStart(ms: number): void
  /** One line for `systemctl status`; line breaks and control characters become spaces. */
  status(text: string): void
  watchdog(): void
  stopping(): void
}

type Send = (message: string) => void

/** Opens the line which the environment names (NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID). */
export function notifier(environment: Environment, loadSend: () => Send | null = loadLibsystemd): Notifier {
  const socket = environment['NOTIFY_SOCKET']
  const library = socket ? loadSend() : null
  const program: Send = (message) =>
    void execFile('systemd-notify', [message], { env: { ...environment } }, () => {})
  const send: Send = socket ? (library ?? program) : () => {}
  return {
    via: !socket ? 'none' : library ? 'libsystemd' : 'systemd-notify',
    watchdogIntervalMs: watchdogInterval(environment),
    ready: () => {
      if (socket) leaveMark(environment['RUNTIME_DIRECTORY'])
      send('READY=1')
    },
    extendStart: (ms) => send(`EXTEND_TIMEOUT_USEC=${Math.round(ms * 1_000)}`),
    status: (text) => send(`STATUS=${text.replaceAll(/\p{Cc}+/gu, ' ').slice(0, 200)}`),
    watchdog: () => send('WATCHDOG=1'),
    stopping: () => send('STOPPING=1'),
  }
}

/** The unit's ExecStopPost= tells by this file a process that was killed at work from one that never got there. */
function leaveMark(folders: string | undefined): void {
  try {
    if (folders) writeFileSync(join(folders.split(':')[0]!, 'ready'), '')
  } catch {
    // Then a restart after a kill takes five seconds longer.
  }
}

const patienceMs = 30_000
const extendEveryMs = 5_000

/** A start that takes as long as it takes. Each may be called in any state and more than once. */
export interface Start {
  /** The process does its work from now on. */
  ready(): void
  /** It ends without having been ready, or after it. */
  end(): void
  /**
   * It ends by a fault. Resolves at once when it was ready before; a start that failed is held back for 5 to 10 s or until
   * `stop` aborts, because systemd would repeat it at once and for ever. Outside of systemd nothing waits.
   */
  failed(error: unknown, stop: AbortSignal): Promise<void>
}

/**
 * Keeps a start from timing out while it waits for something outside, such as a database that is away. Fed by the main
 * loop: a start that hangs in itself still times out, after 30 s.
 */
export function beginStart(systemd: Notifier): Start {
  const extend = (): void => systemd.extendStart(patienceMs)
  extend()
  const extending = setInterval(extend, extendEveryMs)
  extending.unref()
  let state: 'starting' | 'ready' | 'ended' = 'starting'
  return {
    ready() {
      if (state !== 'starting') return
      state = 'ready'
      clearInterval(extending)
      systemd.ready()
    },
    end() {
      state = 'ended'
      clearInterval(extending)
    },
    async failed(error, stop) {
      const early = state === 'starting'
      this.end()
      if (!early || systemd.via === 'none' || error instanceof ConfigError) return
      extend()
      systemd.status(`failed: ${(error as Error).message}; ends in a few seconds, to be started again`)
      await untilAborted(stop, 5_000 * (1 + Math.random()))
    },
  }
}

/** Resolves after `ms`, or when the signal aborts. Never rejects. */
async function untilAborted(signal: AbortSignal, ms: number): Promise<void> {
  try {
    await delay(ms, undefined, { signal })
  } catch {
    // Aborted: that is what it waits for.
  }
}

function watchdogInterval(environment: Environment): number | null {
  const micros = Number(environment['WATCHDOG_USEC'])
  const meant = environment['WATCHDOG_PID']
  if (!(micros > 0) || (meant && Number(meant) !== process.pid)) return null
  return Math.max(1, Math.floor(micros / 2_000))
}

interface Koffi {
  load(library: string): { func(definition: string): (unset: number, state: string) => number }
}

/** koffi is optional: no build for a platform, or no libsystemd on it, is no error. */
function loadLibsystemd(): Send | null {
  try {
    const koffi: Koffi = createRequire(import.meta.url)('koffi')
    const notify = koffi.load('libsystemd.so.0').func('int sd_notify(int, const char *)')
    return (message) => void notify(0, message)
  } catch {
    return null
  }
}
