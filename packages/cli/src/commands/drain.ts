/**
 * `leasehold drain`: asks workers to claim nothing more, to finish what they run, and to leave; one by one when rolling.
 *
 * Only asks and looks: the worker drains by itself, within its own drain limit. What starts it again is the service
 * manager's business; `--rolling` waits for that before it goes on to the next.
 */
import { sleep } from '@leasehold/postgres'
import { type WorkerHealth, drainSlot, listWorkers } from '@leasehold/queue'
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
  /** Asked: it drains. Ended: it has left. Restarted: its slot was started again as `successor`. */
  readonly result: 'asked' | 'ended' | 'restarted'
  readonly running: number
  readonly successor: string | null
}

const lookEveryMs = 300

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
  for (const { slot } of workers) await drainSlot(pool, slot)
  const asked = workers.map((worker) => reportOf(worker, 'asked'))
  if (options.wait !== true) asked.forEach(tell)
  if (options.wait !== true) return asked
  const ended = (open: readonly WorkerHealth[]): Report[] =>
    workers
      .filter((worker) => !open.some(({ workerId }) => workerId === worker.workerId))
      .map((worker) => reportOf(worker, 'ended'))
  const told = new Set<string>()
  await until(options.timeout, workers, async () => {
    const now = ended(await listWorkers(pool))
    for (const report of now) if (!told.has(report.workerId)) tell(report)
    for (const { workerId } of now) told.add(workerId)
    return now.length === workers.length
  })
  return workers.map((worker) => reportOf(worker, 'ended'))
}

async function roll(
  pool: Pool,
  workers: readonly WorkerHealth[],
  options: Options,
  tell: (report: Report) => void,
): Promise<Report[]> {
  const reports: Report[] = []
  for (const worker of workers) {
    await drainSlot(pool, worker.slot)
    await until(options.timeout, [worker], async () => {
      const open = await listWorkers(pool)
      return !open.some(({ workerId }) => workerId === worker.workerId)
    })
    let successor: string | null = null
    await until(
      options.timeout,
      [worker],
      async () => {
        const open = await listWorkers(pool)
        successor =
          open.find(({ slot, status }) => slot === worker.slot && status !== 'dead')?.workerId ?? null
        return successor !== null
      },
      'has left, but its slot was not started again',
    )
    const report: Report = { ...reportOf(worker, 'restarted'), successor }
    reports.push(report)
    tell(report)
  }
  return reports
}

/** Looks again and again; throws when it takes too long. What was asked for goes on nevertheless. */
async function until(
  seconds: number,
  workers: readonly WorkerHealth[],
  done: () => Promise<boolean>,
  what = 'has not left',
): Promise<void> {
  const end = performance.now() + seconds * 1000
  while (!(await done())) {
    if (performance.now() > end) {
      const slots = workers.map(({ slot }) => slot).join(', ')
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
  }
  return `${printable(slot)} ${words[result]}`
}
