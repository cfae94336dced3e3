/**
 * `leasehold status`: the whole picture on one page: stages, workers, and what needs somebody.
 *
 * One snapshot, so the parts fit together. Whether the installation is sound is `doctor`'s question.
 */
import {
  type HealthCheck,
  type OpenIncident,
  type StageHealth,
  type WorkerHealth,
  checkWorkerVersions,
  databaseHealth,
  listStages,
  listWorkers,
  openIncidents,
} from '@leasehold/queue'
import type { Command } from 'commander'
import { type Context, show, withDatabase } from '../context.ts'
import { withoutPasswords } from '../failure.ts'
import { printable } from '../terminal/printable.ts'
import { table } from '../terminal/table.ts'
import type { Terminal } from '../terminal/terminal.ts'
import { relative } from '../terminal/time.ts'
import { stageTable } from './stages.ts'
import { workerTable } from './workers.ts'

interface Status {
  readonly database: { readonly address: string; readonly embedded: boolean }
  readonly stages: readonly StageHealth[]
  readonly workers: readonly WorkerHealth[]
  readonly incidents: readonly OpenIncident[]
  readonly health: readonly HealthCheck[]
}

/** Adds the command to the program. */
export function addStatus(program: Command, context: Context): void {
  program
    .command('status')
    .description('stages, workers, open incidents and the health of the database on one page')
    .option('--json', 'print one JSON document')
    .action((options: { json?: boolean }) =>
      withDatabase(context, async ({ read, url, embedded }) => {
        const status = await read(async (tx): Promise<Status> => ({
          database: { address: withoutPasswords(url), embedded },
          stages: await listStages(tx),
          workers: await listWorkers(tx),
          incidents: await openIncidents(tx),
          health: [...(await databaseHealth(tx)), await checkWorkerVersions(tx)],
        }))
        show(context, options.json, status, () => page(context.terminal, status))
      }),
    )
}

function page(terminal: Terminal, status: Status): string {
  const troubles = status.health.filter((check) => check.status !== 'ok')
  const title = (text: string): string => terminal.paint('bold', text)
  const kind = status.database.embedded ? 'embedded' : 'DATABASE_URL'
  return [
    `${title('Database')}  ${printable(status.database.address)} (${kind})`,
    `\n${title('Stages')}\n${stageTable(terminal, status.stages)}`,
    `\n${title('Workers')}\n${workerTable(terminal, status.workers)}`,
    `\n${title('Open incidents')}\n${incidentTable(terminal, status.incidents)}`,
    ...(troubles.length > 0 ? [`\n${title('Database health')}\n${healthTable(terminal, troubles)}`] : []),
  ].join('\n')
}

function incidentTable(terminal: Terminal, incidents: readonly OpenIncident[]): string {
  if (incidents.length === 0) return 'none'
  return table(
    terminal,
    ['SINCE', 'KIND', 'WHAT'],
    incidents.map((incident) => [relative(incident.openMs), incident.kind, incident.summary]),
  )
}

/** Checks, and below each that is not ok what to do, never shortened; also a part of `doctor`. */
export function healthTable(terminal: Terminal, checks: readonly HealthCheck[]): string {
  const [, ...lines] = table(
    terminal,
    ['STATUS', 'CHECK', 'VALUE'],
    checks.map((check) => [{ shown: mark(terminal, check.status) }, check.name, check.value]),
  ).split('\n')
  return lines.flatMap((line, nr) => [line, ...advice(terminal, checks[nr])]).join('\n')
}

function advice(terminal: Terminal, check: HealthCheck | undefined): string[] {
  if (check === undefined || check.status === 'ok') return []
  return [`      ${terminal.paint('cyan', '→')} ${printable(check.advice, 4_000)}`]
}

function mark(terminal: Terminal, status: HealthCheck['status']): string {
  if (status === 'ok') return terminal.paint('green', 'ok  ')
  return terminal.paint(status === 'bad' ? 'red' : 'yellow', status.padEnd(4))
}
