/**
 * `leasehold check`: is the manifest right, and what does it declare? For CI, and before it is applied.
 *
 * Needs no database and starts nothing. What is wrong is exit code 2 with every problem; what is only odd is a warning.
 */
import type { Manifest, ManifestSchedule, ManifestWorker } from '@leasehold/manifest'
import { type WholeRate, wholeRate } from '@leasehold/queue'
import { localTime, nextFirings, parseTiming, remarkOn } from '@leasehold/schedules'
import type { Command } from 'commander'
import { type Context, show } from '../context.ts'
import { defaultManifest, openManifest } from '../manifest/read.ts'
import { manifestWarnings } from '../manifest/warnings.ts'
import { timerLimits } from '../systemd/timer-limits.ts'
import { table } from '../terminal/table.ts'
import type { Terminal } from '../terminal/terminal.ts'
import { duration, rateText } from '../terminal/time.ts'

const firingsShown = 3

interface Firing {
  readonly at: Date
  readonly local: string
  /** What a clock change does to it, or null. */
  readonly remark: string | null
}

interface Findings {
  readonly file: string
  readonly processes: number
  readonly monitors: number
  readonly schedulers: number
  readonly controls: number
  readonly workers: readonly {
    readonly name: string
    readonly instances: number
    readonly stages: readonly string[]
    readonly runs: string
  }[]
  /** Of command stages; those of modules limit themselves. */
  readonly rates: readonly (WholeRate & { readonly stage: string })[]
  readonly schedules: readonly (ManifestSchedule & { readonly next: readonly Firing[] })[]
  readonly alerts: Manifest['alerts']
  readonly warnings: readonly string[]
  /** What would be otherwise if systemd's timers fired the schedules. */
  readonly timerLimits: readonly string[]
}

/** Adds the command to the program. */
export function addCheck(program: Command, context: Context): void {
  program
    .command('check')
    .description('is the manifest right? prints what it declares and when its schedules fire next')
    .argument('[file]', 'the manifest', defaultManifest)
    .option('--json', 'print one JSON document')
    .action(async (file: string, options: { json?: boolean }) => {
      const manifest = await openManifest(file)
      const warnings = await manifestWarnings(manifest, context.environment['PATH'] ?? '')
      const findings = findingsOf(manifest, warnings, new Date())
      show(context, options.json, findings, () => report(context.terminal, findings))
    })
}

function findingsOf(manifest: Manifest, warnings: readonly string[], now: Date): Findings {
  const { file, monitors, schedulers, controls, workers, commands, schedules, alerts } = manifest
  return {
    file,
    processes: workers.reduce((sum, worker) => sum + worker.slots.length, 0),
    monitors,
    schedulers,
    controls,
    workers: workers.map((worker) => ({
      name: worker.name,
      instances: worker.slots.length,
      stages: worker.stages,
      runs: runsOf(worker),
    })),
    rates: commands.flatMap(({ stage, limits: { rate } }) =>
      rate === null ? [] : [{ stage, ...wholeRate(rate) }],
    ),
    schedules: schedules.map((schedule) => ({ ...schedule, next: nextOf(schedule, now) })),
    alerts,
    warnings,
    timerLimits: schedules.filter(({ enabled }) => enabled).flatMap((one) => timerLimits(one, now)),
  }
}

function runsOf({ command, module }: ManifestWorker): string {
  return command?.join(' ') ?? module ?? 'commands'
}

function nextOf(schedule: ManifestSchedule, now: Date): Firing[] {
  const timing = parseTiming(schedule)
  return nextFirings(timing, now, firingsShown).map((at) => ({
    at,
    local: localTime(schedule.zone, at),
    remark: remarkOn(timing, at),
  }))
}

function report(terminal: Terminal, findings: Findings): string {
  const { workers, rates, schedules, processes, monitors, schedulers, controls, warnings } = findings
  const parts = [
    `${terminal.paint('green', 'ok')} ${findings.file}`,
    `${count(workers.length, 'worker')} in ${processes === 1 ? '1 process' : `${processes} processes`}, ` +
      `${count(monitors, 'monitor')}, ${count(schedulers, 'scheduler')}, ${count(controls, 'control service')}, ${count(schedules.length, 'schedule')}` +
      (findings.alerts === null ? '' : ', alert policy'),
  ]
  if (workers.length > 0) parts.push(workerTable(terminal, workers))
  if (rates.length > 0) parts.push(rates.map((rate) => `${rate.stage}: at most ${rateText(rate)}`).join('\n'))
  if (schedules.length > 0) parts.push(scheduleTable(terminal, schedules))
  for (const { name, next } of schedules)
    for (const { remark } of next) if (remark !== null) parts.push(`${name}: ${remark}`)
  if (warnings.length > 0)
    parts.push(warnings.map((warning) => `${terminal.paint('yellow', 'warning:')} ${warning}`).join('\n'))
  if (findings.timerLimits.length > 0)
    parts.push(['With systemd timers (systemd install --timers):', ...findings.timerLimits].join('\n  '))
  return parts.join('\n\n')
}

function count(n: number, one: string): string {
  return `${n} ${one}${n === 1 ? '' : 's'}`
}

function workerTable(terminal: Terminal, workers: Findings['workers']): string {
  return table(
    terminal,
    ['WORKER', 'PROCESSES', 'STAGES', 'RUNS'],
    workers.map(({ name, instances, stages, runs }) => [name, instances, stages.join(' '), runs]),
  )
}

function scheduleTable(terminal: Terminal, schedules: Findings['schedules']): string {
  return table(
    terminal,
    ['SCHEDULE', 'STAGE', 'WHEN', 'ZONE', 'FIRES NEXT', 'THEN', 'THEN'],
    schedules.map((schedule) => {
      const times = Array.from({ length: firingsShown }, (_, i) => schedule.next[i]?.local ?? null)
      const when = schedule.cron ?? `every ${duration(schedule.everyMs ?? 0)}`
      const shown = schedule.enabled ? times : ['disabled', null, null]
      return [schedule.name, schedule.stage, when, schedule.zone, ...shown]
    }),
  )
}
