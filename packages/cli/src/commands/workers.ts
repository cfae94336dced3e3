/**
 * `leasehold workers`: who works, who has fallen silent, and what became of those that died.
 *
 * Status is the database's judgement by freshness; a worker that says it is well and does not beat is dead here.
 */
import { type DeadWorkerRecord, type WorkerHealth, listDeadWorkers, listWorkers } from '@leasehold/queue'
import type { Command } from 'commander'
import { type Context, show, withDatabase } from '../context.ts'
import { table } from '../terminal/table.ts'
import type { Terminal } from '../terminal/terminal.ts'
import { duration, relative } from '../terminal/time.ts'

/** Adds the command to the program. */
export function addWorkers(program: Command, context: Context): void {
  program
    .command('workers')
    .description('every worker that has not ended')
    .option('--stage <stage>', 'only those that serve this stage')
    .option('--dead', 'those that died in the last week instead')
    .option('--json', 'print one JSON document')
    .action((options: { stage?: string; dead?: boolean; json?: boolean }) =>
      withDatabase(context, async ({ read }) => {
        const filter = options.stage === undefined ? {} : { stage: options.stage }
        if (options.dead === true) {
          const workers = await read((tx) => listDeadWorkers(tx, filter))
          show(context, options.json, workers, () => deadTable(context.terminal, workers))
        } else {
          const workers = await read((tx) => listWorkers(tx, filter))
          show(context, options.json, workers, () => workerTable(context.terminal, workers))
        }
      }),
    )
}

/** The table of workers; also a part of `status`. */
export function workerTable(terminal: Terminal, workers: readonly WorkerHealth[]): string {
  if (workers.length === 0) {
    return 'No worker lives. Start one: npx leasehold runner --stage STAGE. Earlier ones: npx leasehold workers --dead'
  }
  const titles = [
    'SLOT',
    'STATUS',
    'RUNNING',
    'LAST BEAT',
    'UP',
    'RESTARTS',
    'VERSION',
    'HOST',
    'PID',
    'STAGES',
  ]
  return table(
    terminal,
    titles,
    workers.map((worker) => [
      worker.slot,
      { shown: paintStatus(terminal, worker) },
      `${worker.running}/${worker.concurrency}`,
      relative(worker.silentMs),
      duration(worker.upMs),
      worker.restarts,
      worker.version,
      worker.host,
      worker.pid === null ? null : String(worker.pid),
      worker.stages.join(','),
    ]),
  )
}

function paintStatus(terminal: Terminal, { status, drainAsked }: WorkerHealth): string {
  const shown = drainAsked && status !== 'draining' ? `${status}, asked to drain` : status
  if (status === 'dead' || status === 'wedged') return terminal.paint('red', shown)
  if (status === 'late' || status === 'draining') return terminal.paint('yellow', shown)
  return status === 'working' ? terminal.paint('green', shown) : shown
}

function deadTable(terminal: Terminal, workers: readonly DeadWorkerRecord[]): string {
  if (workers.length === 0) return 'No worker has died in the last week.'
  const titles = ['SLOT', 'LAST BEAT', 'ENDED AS', 'STILL HOLDS', 'HOST', 'PID', 'STAGES', 'WORKER']
  return table(
    terminal,
    titles,
    workers.map((worker) => [
      worker.slot,
      relative(worker.silentMs),
      worker.reason,
      worker.stillHolds,
      worker.host,
      worker.pid === null ? null : String(worker.pid),
      worker.stages.join(','),
      worker.workerId,
    ]),
  )
}
