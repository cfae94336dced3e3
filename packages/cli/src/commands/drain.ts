/**
 * `leasehold drain`: asks workers to claim nothing more, to finish what they run, and to leave; one by one when rolling.
 *
 * Only asks and looks: the worker drains by itself, within its own drain limit. What starts it again is the service
 * manager's business; `--rolling` waits for that before it goes on to the next. One that ended otherwise than in order is
 * said to have died, and the exit code is 1: what it ran was interrupted.
 */
import { sleep } from '@leasehold/postgres'
import { type WorkerHealth, drainSlot, listDeadWorkers, listWorkers } from '@leasehold/queue'
import type { Command } from 'commander'
import type { Pool } from 'pg'
import { type Context, show, withDatabase } from '../context.ts'
import { exitCodes } from '../exit-codes.ts'
import { CommandError, usageError } from '../failure.ts'
import { wholeNumber } from '../options.ts'
import { printable } from '../terminal/printable.ts'

interface Options {
  readonly stage?: string
  readonly all?: boolean
  readonly wait?: boolean
  readonly rolling?: boolean
  readonly timeout: number
  readonly json?: boolean
}

/** What became of one worker. */
interface Report {
  readonly slot: string
  readonly workerId: string
  /**
   * Asked: it drains. Ended: it has left. Restarted: its slot was started again as `successor`. Died: it was lost, or
   * its slot was taken from it, before it had left.
   */
  readonly result: 'asked' | 'ended' | 'restarted' | 'died'
  readonly running: number
  readonly successor: string | null
}

const lookEveryMs = 300
/** More than may die while one command waits. */
const deadLookedAt = 1_000

/** Adds the command to the program. */
export function addDrain(program: Command, context: Context): void {
  program
    .command('drain')
    .description('let workers finish what they run and leave; they end with exit code 0')
    .argument('[slots...]', 'slots (name@1), or names for all of their slots (name)')
    .option('--stage <stage>', 'all workers of this stage')
    .option('--all', 'all workers')
    .option('--wait', 'come back when they have left')
    .option('--rolling', 'one by one: wait until it has left and its slot was started again, then the next')
    .option('--timeout <s>', 'with --wait or --rolling: seconds for each step', wholeNumber(1, 86_400), 600)
    .option('--json', 'print one JSON document')
    .action((slots: string[], options: Options) => drain(context, slots, options))
}

async function drain(context: Context, names: readonly string[], options: Options): Promise<void> {
  const ways = [names.length > 0, options.stage !== undefined, options.all === true].filter(Boolean)
  if (ways.length !== 1)
    throw usageError('Say which workers: slots, --stage or --all', 'all of them: npx leasehold workers')
  await withDatabase(context, async ({ pool }) => {
    const workers = choose(await listWorkers(pool, pick(options)), names)
    if (workers.length === 0) context.exitCode = exitCodes.nothingDone
    const tell = (report: Report): void => {
      if (options.json !== true) context.terminal.out(lineOf(report))
    }
    const reports = options.rolling
      ? await roll(pool, workers, options, tell)
      : await drainTogether(pool, workers, options, tell)
    if (reports.some(({ result }) => result === 'died')) context.exitCode = exitCodes.failed
    if (options.json || reports.length === 0)
      show(context, options.json, reports, () => 'No such worker lives.')
  })
}

function pick({ stage }: Options): { stage?: string } {
  return stage === undefined ? {} : { stage }
}

function means(name: string, { slot }: WorkerHealth): boolean {
  return slot === name || slot.slice(0, slot.lastIndexOf('@')) === name
}

/** The live workers that are meant; a name stands for its slots. Throws when one of the names means nobody. */
function choose(workers: readonly WorkerHealth[], names: readonly string[]): WorkerHealth[] {
  const live = workers.filter(({ status }) => status !== 'dead')
  if (names.length === 0) return live
  const nobody = names.find((name) => !live.some((worker) => means(name, worker)))
  if (nobody !== undefined) {
    const message = `No live worker has the slot '${printable(nobody, 200)}'`
    throw new CommandError('NO_WORKER', message, 'all of them: npx leasehold workers', exitCodes.notFound)
  }
  return live.filter((worker) => names.some((name) => means(name, worker)))
}

async function drainTogether(
  pool: Pool,
  workers: readonly WorkerHealth[],
  options: Options,
  tell: (report: Report) => void,
): Promise<Report[]> {
  const reports: Report[] = []
  const say = (report: Report): void => {
    reports.push(report)
    tell(report)
  }
  for (const worker of workers) {
    const asked = await drainSlot(pool, worker.slot)
    if (options.wait !== true) say(asked ? reportOf(worker, 'asked') : await endOf(pool, worker))
  }
  if (options.wait !== true) return reports
  const left = new Map(workers.map((worker) => [worker.workerId, worker]))
  await until(
    options.timeout,
    () => [...left.values()],
    async () => {
      const open = await listWorkers(pool)
      for (const worker of left.values()) {
        if (lives(open, worker)) continue
        left.delete(worker.workerId)
        say(await endOf(pool, worker))
      }
      return left.size === 0
    },
  )
  return reports
}

async function roll(
  pool: Pool,
  workers: readonly WorkerHealth[],
  options: Options,
  tell: (report: Report) => void,
): Promise<Report[]> {
  const reports: Report[] = []
  for (const worker of workers) {
    // False: it has ended meanwhile; what became of it is looked up like that of all others.
    await drainSlot(pool, worker.slot)
    await until(
      options.timeout,
      () => [worker],
      async () => !lives(await listWorkers(pool), worker),
    )
    const { result } = await endOf(pool, worker)
    let successor: string | null = null
    await until(
      options.timeout,
      () => [worker],
      async () => {
        successor = successorOf(worker, await listWorkers(pool))
        return successor !== null
      },
      `${result === 'died' ? 'died' : 'has left'}, but its slot was not started again`,
    )
    const report: Report = { ...reportOf(worker, result === 'died' ? 'died' : 'restarted'), successor }
    reports.push(report)
    tell(report)
  }
  return reports
}

function lives(open: readonly WorkerHealth[], { workerId }: WorkerHealth): boolean {
  return open.some((one) => one.workerId === workerId)
}

/** Who works in its place and goes on doing so: one that is to drain as well, having come too early, is none. */
function successorOf({ slot, workerId }: WorkerHealth, open: readonly WorkerHealth[]): string | null {
  const next = open.find((one) => one.slot === slot && one.workerId !== workerId)
  if (next === undefined || next.drainAsked || next.status === 'draining' || next.status === 'dead')
    return null
  return next.workerId
}

/** How a worker that is gone has ended: in order, or as one of those that were found dead. */
async function endOf(pool: Pool, worker: WorkerHealth): Promise<Report> {
  const dead = await listDeadWorkers(pool, { limit: deadLookedAt })
  const died = dead.some(({ workerId }) => workerId === worker.workerId)
  return reportOf(worker, died ? 'died' : 'ended')
}

/** Looks again and again; throws when it takes too long. What was asked for goes on nevertheless. */
async function until(
  seconds: number,
  workers: () => readonly WorkerHealth[],
  done: () => Promise<boolean>,
  what = 'has not left',
): Promise<void> {
  const end = performance.now() + seconds * 1000
  while (!(await done())) {
    if (performance.now() > end) {
      const slots = workers()
        .map(({ slot }) => slot)
        .join(', ')
      throw new CommandError(
        'DRAIN_TIMEOUT',
        `After ${seconds} s: ${printable(slots, 500)} ${what}`,
        'what it runs: npx leasehold workers; it still drains, wait longer with --timeout',
        exitCodes.failed,
      )
    }
    await sleep(lookEveryMs)
  }
}

function reportOf({ slot, workerId, running }: WorkerHealth, result: Report['result']): Report {
  return { slot, workerId, result, running, successor: null }
}

function lineOf({ slot, result, running }: Report): string {
  const words = {
    asked: `was asked to drain, ${running} running`,
    ended: 'has left',
    restarted: 'has left and was started again',
    died: 'died before it had left; what it ran was interrupted and is tried again',
  }
  return `${printable(slot)} ${words[result]}`
}
