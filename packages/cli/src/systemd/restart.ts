/**
 * A rolling restart: one service after the other, each back at work before the next one stops.
 *
 * Invariant: at no moment are two slots down, and it ends at the first service that does not come back in its time. What
 * somebody has stopped stays stopped. Nothing is lost either way: a runner that stops drains, and gives back what it
 * cannot finish. systemd says when a process is ready, the database says that its slot has a new worker that beats.
 */
import { spawn } from 'node:child_process'
import { text } from 'node:stream/consumers'
import { setTimeout as delay } from 'node:timers/promises'
import { type Db, listWorkers } from '@leasehold/queue'
import { exitCodes } from '../exit-codes.ts'
import { CommandError } from '../failure.ts'

/** A service to restart, and the slot that its process takes; null for the others. */
export interface Restartable {
  readonly unit: string
  readonly slot: string | null
  /** How long its stop and its start may take together. One that waits for its database goes on, and is not waited for. */
  readonly withinMs: number
}

const liveWithinMs = 60_000
const lookEveryMs = 200

/**
 * Restarts one by one; `said` hears of each that is back, with null of one that is stopped and was left so. Throws
 * CommandError 'NOT_BACK' at the first that is not back.
 */
export async function restartOneByOne(
  db: Db,
  services: readonly Restartable[],
  said: (service: Restartable, tookMs: number | null) => void,
): Promise<void> {
  for (const [index, service] of services.entries()) {
    if (await wasStopped(service)) {
      said(service, null)
      continue
    }
    const startedAt = performance.now()
    const before = service.slot === null ? null : await workerOf(db, service.slot)
    const rest = services.length - index - 1
    await restart(service).catch((error: unknown) => {
      throw notBack(service, rest, (error as Error).message)
    })
    if (service.slot !== null) await untilLive(db, service, before, rest)
    said(service, performance.now() - startedAt)
  }
}

async function restart(service: Restartable): Promise<void> {
  const { unit, withinMs } = service
  try {
    await systemctl('restart', [unit], withinMs)
  } catch (error) {
    if (!(error instanceof TookTooLong)) throw error
    const status = await stateOf(service, 'StatusText')
    throw new Error(`it is not ready after ${withinMs / 1_000} s, and goes on${status && ` (${status})`}`, {
      cause: error,
    })
  }
}

/** Whether it ran and somebody has stopped it. One that is new has never been inactive after it ran, and is started. */
async function wasStopped(service: Restartable): Promise<boolean> {
  const inactive = (await stateOf(service, 'ActiveState')) === 'inactive'
  return inactive && (await stateOf(service, 'InactiveEnterTimestamp')) !== ''
}

/** A property of its unit; empty when systemd does not know. */
async function stateOf({ unit }: Restartable, property: string): Promise<string> {
  const shown = await systemctl('show', ['--value', `--property=${property}`, unit]).catch(() => '')
  return shown.trim()
}

async function untilLive(db: Db, service: Restartable, before: string | null, rest: number): Promise<void> {
  const end = performance.now() + liveWithinMs
  while (performance.now() < end) {
    const now = await workerOf(db, service.slot ?? '')
    if (now !== null && now !== before) return
    await delay(lookEveryMs)
  }
  throw notBack(service, rest, `no new live worker holds ${service.slot} after ${liveWithinMs / 1_000} s`)
}

/** The worker that holds a slot and beats; null when there is none. */
async function workerOf(db: Db, slot: string): Promise<string | null> {
  const workers = await listWorkers(db)
  const found = workers.find(
    (worker) => worker.slot === slot && worker.status !== 'dead' && !worker.drainAsked,
  )
  return found?.workerId ?? null
}

function notBack(service: Restartable, rest: number, why: string): CommandError {
  const left = rest === 0 ? '' : `; ${rest} more were left as they are`
  return new CommandError(
    'NOT_BACK',
    `${service.unit} did not come back: ${why.trim()}${left}`,
    `look: journalctl -u ${service.unit} -n 50`,
    exitCodes.failed,
  )
}

/** A job of systemd's that goes on, and was not waited for any longer. */
class TookTooLong extends Error {}

/**
 * Runs systemctl to its end, or until `withinMs` have passed: what it asked for goes on then. Answers with what it
 * printed; rejects with what it complained of.
 */
export async function systemctl(verb: string, args: readonly string[], withinMs?: number): Promise<string> {
  const timeout = withinMs === undefined ? {} : { timeout: withinMs }
  const child = spawn('systemctl', [verb, ...args], { stdio: ['ignore', 'pipe', 'pipe'], ...timeout })
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', resolve)
  })
  const [printed, said, code] = await Promise.all([text(child.stdout), text(child.stderr), ended])
  if (child.killed) throw new TookTooLong(`systemctl ${verb} did not end within ${withinMs} ms`)
  if (code !== 0) throw new Error(said.trim() === '' ? `systemctl ${verb} ended with ${code}` : said)
  return printed
}
