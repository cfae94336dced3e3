/**
 * What differs between a manifest and a database: stages, schedules and the alert policy, one line for each.
 *
 * Only compares. A manifest speaks of what it names: a stage of a module has its expected workers from here and all else
 * from its module; a policy's rules that are not named stay; schedules that others made are nobody's business here.
 */
import type { Manifest, ManifestCommand, ManifestSchedule } from '@leasehold/manifest'
import { type AlertPolicy, type ScheduleHealth, type StageHealth, wholeRate } from '@leasehold/queue'
import { duration, rateText } from '../terminal/time.ts'

/** One change that applying makes. */
export interface Difference {
  readonly what: 'stage' | 'schedule' | 'alerts'
  readonly name: string
  readonly change: 'add' | 'change' | 'remove'
  /** `timeout: 30 min → 5 min`; of what is added or removed, nothing. */
  readonly details: readonly string[]
}

type Shown = string | number | boolean | null
type Facts = Readonly<Record<string, Shown>>

/** What a manifest says of its stages' settings, in the names of {@link StageHealth}. */
export function stageDifferences(manifest: Manifest, present: readonly StageHealth[]): Difference[] {
  return declaredStages(manifest).flatMap(({ stage, expectedWorkers, command }): Difference[] => {
    const found = present.find((one) => one.stage === stage)
    if (found === undefined) return [{ what: 'stage', name: stage, change: 'add', details: [] }]
    const details = changes(settingsNow(found), {
      'expected workers': expectedWorkers,
      ...settingsOf(command),
    })
    return details.length === 0 ? [] : [{ what: 'stage', name: stage, change: 'change', details }]
  })
}

/** The stages that a manifest serves, with how many workers each expects; `command` is null for those of modules. */
export function declaredStages({ workers, commands }: Manifest): {
  readonly stage: string
  readonly expectedWorkers: number
  readonly command: ManifestCommand | null
}[] {
  const names = new Set([...commands.map(({ stage }) => stage), ...workers.flatMap(({ stages }) => stages)])
  return [...names].sort().map((stage) => ({
    stage,
    expectedWorkers: workers
      .filter(({ stages }) => stages.includes(stage))
      .reduce((sum, { slots }) => sum + slots.length, 0),
    command: commands.find((one) => one.stage === stage) ?? null,
  }))
}

/** A schedule of a manifest with who is to fire it. */
export type DeclaredSchedule = ManifestSchedule & Pick<ScheduleHealth, 'firedBy'>

/** The schedules in the order of their names. Where a manifest has no scheduler, timers fire them. */
export function declaredSchedules({ schedules, schedulers }: Manifest): DeclaredSchedule[] {
  const firedBy = schedulers === 0 ? 'timer' : 'scheduler'
  return schedules
    .map((schedule) => ({ ...schedule, firedBy }) as const)
    .toSorted((a, b) => (a.name < b.name ? -1 : 1))
}

function settingsNow(stage: StageHealth): Facts {
  return {
    'expected workers': stage.expectedWorkers,
    priority: stage.priority,
    timeout: duration(stage.timeoutMs),
    attempts: stage.maxAttempts,
    'pause from': duration(stage.backoffMinMs),
    'pause to': duration(stage.backoffMaxMs),
    'tasks per key': stage.keyLimit,
    crashes: stage.maxCrashes,
    rate: stage.rate && rateText(stage.rate),
  }
}

function settingsOf(command: ManifestCommand | null): Facts {
  if (command === null) return {}
  return {
    priority: command.priority,
    timeout: duration(command.timeoutMs),
    attempts: command.retry.attempts,
    'pause from': duration(command.retry.fromMs),
    'pause to': duration(command.retry.toMs),
    'tasks per key': command.limits.perKey,
    crashes: command.limits.crashes,
    rate: command.limits.rate && rateText(wholeRate(command.limits.rate)),
  }
}

/** What putting a schedule has changed. Payloads are not shown: what differs and is not seen is the payload. */
export function scheduleDifference(
  schedule: DeclaredSchedule,
  before: ScheduleHealth | undefined,
  outcome: 'created' | 'changed',
): Difference {
  const { name } = schedule
  if (outcome === 'created' || before === undefined)
    return { what: 'schedule', name, change: 'add', details: [] }
  const details = changes(scheduleFacts(before), scheduleFacts(schedule))
  return {
    what: 'schedule',
    name,
    change: 'change',
    details: details.length === 0 ? ['payload: changed'] : details,
  }
}

/** Schedules that an earlier manifest made and this one does not have. */
export function goneSchedules(manifest: Manifest, present: readonly ScheduleHealth[]): Difference[] {
  return present
    .filter(({ name, owner }) => owner === 'manifest' && !manifest.schedules.some((one) => one.name === name))
    .map(({ name }) => ({ what: 'schedule', name, change: 'remove', details: [] }))
}

/** Schedules of the manifest whose names others have: `leasehold apply` takes nothing away from them. */
export function foreignSchedules(manifest: Manifest, present: readonly ScheduleHealth[]): ScheduleHealth[] {
  return present.filter(
    ({ name, owner }) => owner !== 'manifest' && manifest.schedules.some((one) => one.name === name),
  )
}

function scheduleFacts(schedule: DeclaredSchedule | ScheduleHealth): Facts {
  const { stage, cron, everyMs, zone, catchUp, jitterMs, enabled, firedBy } = schedule
  const own = 'owner' in schedule ? schedule : null
  return {
    stage,
    when: cron ?? `every ${duration(everyMs ?? 0)}`,
    zone,
    'catch up': catchUp,
    jitter: duration(jitterMs),
    enabled,
    'fired by': firedBy,
    key: own?.key ?? null,
    priority: own?.priority ?? null,
  }
}

/** What a policy's change names and what differs; null when the manifest has no policy or nothing differs. */
export function alertDifference({ alerts }: Manifest, present: AlertPolicy): Difference | null {
  if (alerts === null) return null
  const { rules = {}, channels = {}, backlogMs = {}, ...plain } = alerts
  const before: Record<string, Shown> = {}
  const after: Record<string, Shown> = {}
  const compare = (name: string, now: unknown, then: unknown): void => {
    if (then === undefined) return
    before[name] = canonical(now ?? null)
    after[name] = canonical(then)
  }
  for (const [name, then] of Object.entries(plain)) compare(name, present[name as keyof AlertPolicy], then)
  for (const [kind, rule] of Object.entries(rules)) {
    if (rule === null) compare(`rule ${kind}`, present.rules[kind], null)
    else
      for (const [name, then] of Object.entries(rule))
        compare(
          `rule ${kind}: ${name}`,
          (present.rules[kind] as Record<string, unknown> | undefined)?.[name],
          then,
        )
  }
  for (const [channel, change] of Object.entries(channels)) {
    const now = present.channels[channel as keyof typeof present.channels] as unknown as Record<
      string,
      unknown
    >
    for (const [name, then] of Object.entries(change)) compare(`${channel}: ${name}`, now[name], then)
  }
  for (const [stage, limit] of Object.entries(backlogMs))
    compare(`backlog of ${stage}`, present.backlogMs[stage], limit)
  const details = changes(before, after)
  return details.length === 0 ? null : { what: 'alerts', name: 'policy', change: 'change', details }
}

function changes(before: Facts, after: Facts): string[] {
  return Object.entries(after)
    .filter(([name, then]) => before[name] !== then)
    .map(([name, then]) => `${name}: ${before[name] ?? 'none'} → ${then ?? 'none'}`)
}

/** JSON with its keys in order, so that equal values are equal texts. */
function canonical(value: unknown): Shown {
  if (value === null || typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean')
    return value
  return JSON.stringify(value, (_key, item: unknown) =>
    typeof item === 'object' && item !== null && !Array.isArray(item)
      ? Object.fromEntries(Object.entries(item).sort(([a], [b]) => (a < b ? -1 : 1)))
      : item,
  )
}
