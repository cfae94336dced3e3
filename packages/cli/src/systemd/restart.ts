/**
 * A rolling restart: one service after the other, each back at work before the next one stops.
 *
 * Invariant: at no moment are two slots down, and it ends at the first service that does not come back. Nothing is lost
 * either way: a runner that stops drains, and gives back what it cannot finish. systemd says when a process is ready, the
 * database says that its slot has a new worker that beats.
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
}

const liveWithinMs = 60_000
const lookEveryMs = 200

/** Restarts one by one; `said` hears of each that is back. Throws CommandError 'NOT_BACK' at the first that is not. */
export async function restartOneByOne(
  db: Db,
  services: readonly Restartable[],
  said: (service: Restartable, tookMs: number) => void,
): Promise<void> {
  for (const [index, service] of services.entries()) {
    const startedAt = performance.now()
    const before = service.slot === null ? null : await workerOf(db, service.slot)
    const rest = services.length - index - 1
    await systemctl('restart', [service.unit]).catch((error: unknown) => {
      throw notBack(service, rest, (error as Error).message)
    })
    if (service.slot !== null) await untilLive(db, service, before, rest)
    said(service, performance.now() - startedAt)
  }
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
  return workers.find((worker) => worker.slot === slot && worker.status !== 'dead')?.workerId ?? null
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

/** Runs systemctl to its end; answers with what it printed. Rejects with what it complained of. */
export async function systemctl(verb: string, args: readonly string[]): Promise<string> {
  const child = spawn('systemctl', [verb, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', resolve)
  })
  const [printed, said, code] = await Promise.all([text(child.stdout), text(child.stderr), ended])
  if (code !== 0) throw new Error(said.trim() === '' ? `systemctl ${verb} ended with ${code}` : said)
  return printed
}
