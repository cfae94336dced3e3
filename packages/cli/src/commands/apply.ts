/**
 * `leasehold apply`: brings a database to what the manifest says: stages, schedules, alert policy.
 *
 * Invariant: all of it or nothing, in one transaction; a second time there is nothing to do. What others made is left
 * alone: schedules of the CLI or of SQL, stages and alert rules that the manifest does not name. A dry run does the same
 * and takes it back, so what the database would refuse is refused then.
 */
import type { Manifest } from '@leasehold/manifest'
import {
  type Db,
  inTransaction,
  listSchedules,
  listStages,
  putAlertPolicy,
  putSchedule,
  readAlertPolicy,
  registerStage,
  removeSchedule,
  type ScheduleHealth,
  type StageHealth,
} from '@leasehold/queue'
import { computeNextSlots } from '@leasehold/schedules'
import type { Command } from 'commander'
import { type Context, show, withDatabase } from '../context.ts'
import { exitCodes } from '../exit-codes.ts'
import { CommandError } from '../failure.ts'
import {
  alertDifference,
  declaredSchedules,
  declaredStages,
  type Difference,
  foreignSchedules,
  goneSchedules,
  scheduleDifference,
  stageDifferences,
} from '../manifest/differences.ts'
import { defaultManifest, openManifest } from '../manifest/read.ts'
import { printable } from '../terminal/printable.ts'
import type { Terminal } from '../terminal/terminal.ts'

interface ApplyOptions {
  readonly dryRun?: boolean
  readonly json?: boolean
}

interface Applied {
  readonly applied: boolean
  readonly differences: readonly Difference[]
  /** Stages that expect workers and that the manifest does not name; they are left as they are. */
  readonly unnamed: readonly string[]
}

/** Takes a dry run back. */
class TakenBack extends Error {}

/** Adds the command to the program. */
export function addApply(program: Command, context: Context): void {
  program
    .command('apply')
    .description('bring the database to what the manifest says: stages, schedules, alert policy')
    .argument('[file]', 'the manifest', defaultManifest)
    .option('--dry-run', 'only show what differs')
    .option('--json', 'print one JSON document')
    .action(async (file: string, options: ApplyOptions) => {
      const manifest = await openManifest(file)
      const done = await withDatabase(context, ({ pool }) => apply(pool, manifest, options.dryRun === true))
      show(context, options.json, done, () => report(context.terminal, done))
    })
}

/** Applies a manifest. With `dryRun` nothing stays changed. */
async function apply(db: Db, manifest: Manifest, dryRun: boolean): Promise<Applied> {
  let found: Omit<Applied, 'applied'> = { differences: [], unnamed: [] }
  const changing = inTransaction(db, async (tx) => {
    found = await change(tx, manifest)
    if (dryRun) throw new TakenBack()
  })
  await changing.catch((error: unknown) => {
    if (!(error instanceof TakenBack)) throw error
  })
  return { applied: !dryRun, ...found }
}

async function change(tx: Db, manifest: Manifest): Promise<Omit<Applied, 'applied'>> {
  const stages = await listStages(tx)
  const schedules = await listSchedules(tx)
  refuseForeign(foreignSchedules(manifest, schedules))
  const differences = stageDifferences(manifest, stages)
  for (const declared of declaredStages(manifest)) {
    if (differences.some(({ name }) => name === declared.stage)) await registerStage(tx, settingsOf(declared))
  }
  differences.push(...(await changeSchedules(tx, manifest, schedules)))
  const alerts = manifest.alerts === null ? null : alertDifference(manifest, await readAlertPolicy(tx))
  if (alerts !== null && manifest.alerts !== null && (await putAlertPolicy(tx, manifest.alerts)))
    differences.push(alerts)
  return { differences, unnamed: unnamedStages(manifest, stages) }
}

/**
 * In the order of their names, so that two who apply wait for one another. Those without a next slot get it here, also
 * where nothing differs: an edit by SQL may have taken it.
 */
async function changeSchedules(
  tx: Db,
  manifest: Manifest,
  present: readonly ScheduleHealth[],
): Promise<Difference[]> {
  const differences: Difference[] = []
  const declared = declaredSchedules(manifest)
  for (const schedule of declared) {
    const outcome = await putSchedule(tx, { ...schedule, owner: 'manifest' })
    const before = present.find(({ name }) => name === schedule.name)
    if (outcome !== 'unchanged') differences.push(scheduleDifference(schedule, before, outcome))
  }
  for (const gone of goneSchedules(manifest, present)) {
    await removeSchedule(tx, gone.name)
    differences.push(gone)
  }
  await computeNextSlots(
    tx,
    declared.map(({ name }) => name),
  )
  return differences
}

/** As registerStage takes it; a module's stage keeps all but its expected workers. */
function settingsOf({
  stage,
  expectedWorkers,
  command,
}: ReturnType<typeof declaredStages>[number]): Parameters<typeof registerStage>[1] {
  const settings =
    command === null
      ? {}
      : {
          priority: command.priority,
          timeout: command.timeoutMs,
          retry: { attempts: command.retry.attempts, from: command.retry.fromMs, to: command.retry.toMs },
          limits: command.limits,
        }
  return { name: stage, expectedWorkers, ...settings }
}

function refuseForeign(foreign: ReturnType<typeof foreignSchedules>): void {
  const [first] = foreign
  if (first === undefined) return
  const names = foreign.map(({ name, owner }) => `${name} (${owner})`).join(', ')
  throw new CommandError(
    'SCHEDULE_FOREIGN',
    `The manifest names schedules that were not made by a manifest: ${names}. Nothing was changed`,
    `name yours otherwise, or remove theirs first: npx leasehold schedules remove ${first.name}`,
    exitCodes.failed,
  )
}

function unnamedStages(manifest: Manifest, stages: readonly StageHealth[]): string[] {
  const named = new Set(declaredStages(manifest).map(({ stage }) => stage))
  return stages
    .filter(({ stage, expectedWorkers }) => expectedWorkers > 0 && !named.has(stage))
    .map(({ stage }) => stage)
}

const signs = { add: ['green', '+'], change: ['yellow', '~'], remove: ['red', '-'] } as const

function report(terminal: Terminal, { applied, differences, unnamed }: Applied): string {
  const lines = differences.flatMap(({ what, name, change, details }) => {
    const [colour, sign] = signs[change]
    return [
      `${terminal.paint(colour, sign)} ${what === 'alerts' ? 'alert policy' : `${what} ${name}`}`,
      ...details.map((detail) => `    ${printable(detail)}`),
    ]
  })
  const count = differences.length === 1 ? '1 change' : `${differences.length} changes`
  if (differences.length === 0) lines.push('nothing to do: the database is as the manifest says')
  else lines.push(applied ? `${count} applied` : `${count} would be applied; nothing was changed`)
  for (const stage of unnamed)
    lines.push(
      `stage ${stage} expects workers and is not in this manifest; if it is gone for good: ` +
        `select leasehold.register_stage('${stage}', p_expected_workers => 0)`,
    )
  return lines.join('\n')
}
