/**
 * From what a person wrote to what programs get: defaults, absolute paths, slots, and what parts say of each other.
 *
 * Invariant: a manifest is answered only when nothing is wrong with it; otherwise every problem is reported at once.
 */
import { ConfigError, nearName, rateProblem } from '@leasehold/queue'
import { parseTiming } from '@leasehold/schedules'
import { dirname, resolve } from 'node:path'
import { readAlerts } from './alerts.ts'
import type { Manifest, ManifestCommand, ManifestSchedule, ManifestWorker } from './manifest.ts'
import { Problems } from './problems.ts'
import { forms, type ScheduleForm, type ServiceForm, type StageForm, type WorkerForm } from './schema.ts'

interface Parts {
  readonly stages: Map<string, StageForm | null>
  readonly workers: Map<string, WorkerForm | null>
  readonly schedules: Map<string, ScheduleForm | null>
}

/** Checks a manifest's value and completes it. `file` is absolute. Throws {@link ConfigError} with all problems. */
export function assemble(value: unknown, file: string): Manifest {
  const problems = new Problems()
  const top = problems.read(forms.top, '', value)
  const given = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>
  const read = <S extends Parameters<Problems['read']>[0]>(form: S, place: string) =>
    new Map(
      problems
        .entries(place, given[place])
        .map(([name, one]) => [name, problems.read(form, `${place}.${name}`, one)]),
    )
  const service = problems.read(forms.service, 'service', given['service'] ?? {})
  const parts = {
    stages: read(forms.stage, 'stages'),
    workers: read(forms.worker, 'workers'),
    schedules: read(forms.schedule, 'schedules'),
  } as Parts
  checkStages(parts, service?.secrets ?? null, problems)
  checkEnvironments(parts, service, problems)
  checkWorkers(parts, problems)
  checkSchedules(parts, problems)
  const alerts = readAlerts(given['alerts'], problems)
  if (top !== null && top.beatInterval * 3 > top.leaseTtl)
    problems.add(
      'beatInterval',
      `is ${top.beatInterval} ms, more than a third of leaseTtl (${top.leaseTtl} ms): two beats may get lost before a lease does`,
    )
  if (top === null || service === null || problems.list.length > 0) throw new ConfigError(problems.list)
  const directory = dirname(file)
  const stages = parts.stages as Map<string, StageForm>
  return {
    file,
    directory,
    service,
    workers: [
      ...[...stages].map(([name, stage]) => stageWorker(name, stage, parts, directory)),
      ...[...(parts.workers as Map<string, WorkerForm>)].map(([name, worker]) =>
        sharedWorker(name, worker, directory),
      ),
    ].filter((worker) => worker.slots.length > 0),
    commands: [...stages].flatMap(([name, stage]) => toCommand(name, stage, directory)),
    monitors: top.monitors,
    schedulers: top.schedulers,
    controls: top.controls,
    schedules: [...(parts.schedules as Map<string, ScheduleForm>)].map(([name, one]) =>
      toSchedule(name, one),
    ),
    alerts,
    drainTimeoutMs: top.drainTimeout,
    leaseTtlMs: top.leaseTtl,
    beatIntervalMs: top.beatInterval,
    wedgeLimitMs: top.wedgeLimit,
  }
}

const commandOnly = ['timeout', 'priority', 'retry', 'limits', 'secrets'] as const

function checkStages({ stages }: Parts, secrets: readonly string[] | null, problems: Problems): void {
  for (const [name, stage] of stages) {
    if (stage === null) continue
    const place = `stages.${name}`
    if (stage.command === undefined && stage.module === undefined)
      problems.add(place, 'needs a command (any program) or a module (where its handler is), and has neither')
    if (stage.command !== undefined && stage.module !== undefined)
      problems.add(place, 'has a command and a module; a stage is one of the two')
    for (const setting of stage.module === undefined ? [] : commandOnly) {
      if (stage[setting] !== undefined)
        problems.add(
          `${place}.${setting}`,
          'is said by the stage itself (defineStage) when it comes from a module',
        )
    }
    const { fromMs: from, toMs: to } = backoff(stage)
    if (from > to) problems.add(`${place}.retry`, `from (${from} ms) must not exceed to (${to} ms)`)
    const wrongRate = stage.limits?.rate && rateProblem(stage.limits.rate)
    if (wrongRate) problems.add(`${place}.limits.rate.${wrongRate.part}`, wrongRate.problem)
    for (const [index, secret] of (stage.secrets ?? []).entries()) {
      if (secrets !== null && !secrets.includes(secret))
        problems.add(
          `${place}.secrets.${index}`,
          `'${secret}' is not in service.secrets${didYouMean(secret, secrets)}`,
        )
    }
  }
}

type Environment = Readonly<Record<string, string>> | undefined

/** A secret has one place. Beside its name a value would go into files that are none, and win over the credential. */
function checkEnvironments(
  { stages, workers }: Parts,
  service: ServiceForm | null,
  problems: Problems,
): void {
  const environments: (readonly [place: string, env: Environment])[] = [
    ['service', service?.env],
    ...environmentsOf('stages', stages),
    ...environmentsOf('workers', workers),
  ]
  for (const [place, env] of environments) {
    for (const name of Object.keys(env ?? {}).filter((one) => service?.secrets.includes(one)))
      problems.add(
        `${place}.env.${name}`,
        'is named in service.secrets, and its value comes from the credential alone: take it out of here',
      )
  }
}

function environmentsOf(
  part: string,
  entries: ReadonlyMap<string, { readonly env?: Environment } | null>,
): [place: string, env: Environment][] {
  return [...entries].map(([name, entry]) => [`${part}.${name}`, entry?.env])
}

function checkWorkers({ stages, workers }: Parts, problems: Problems): void {
  const commands = [...stages].filter(([, stage]) => stage?.command !== undefined).map(([name]) => name)
  for (const [name, worker] of workers) {
    const place = `workers.${name}`
    if (stages.has(name))
      problems.add(
        place,
        `stages.${name} has processes of that name already: the slot ${name}@1 would be there twice`,
      )
    for (const [index, stage] of (worker?.stages ?? []).entries()) {
      const at = `${place}.stages.${index}`
      if (worker!.stages.indexOf(stage) < index) problems.add(at, `'${stage}' is named twice`)
      if (stages.get(stage)?.module !== undefined)
        problems.add(at, `'${stage}' comes from the module of stages.${stage}; leave it to one of the two`)
      else if (worker!.module === undefined && !stages.has(stage))
        problems.add(
          at,
          `'${stage}' is no command of stages${didYouMean(stage, commands)}, and the worker has no module that could define it`,
        )
    }
  }
}

function checkSchedules({ stages, workers, schedules }: Parts, problems: Problems): void {
  const known = [...stages.keys(), ...[...workers.values()].flatMap((worker) => worker?.stages ?? [])]
  for (const [name, schedule] of schedules) {
    if (schedule === null) continue
    const place = `schedules.${name}`
    if (!known.includes(schedule.stage))
      problems.add(
        `${place}.stage`,
        `no stage '${schedule.stage}' is declared${didYouMean(schedule.stage, known)}`,
      )
    if ((schedule.cron === undefined) === (schedule.every === undefined))
      problems.add(place, `needs cron or every${schedule.cron === undefined ? '' : ', not both'}`)
    else checkTiming(place, schedule, problems)
  }
}

function checkTiming(place: string, { cron, every, zone }: ScheduleForm, problems: Problems): void {
  try {
    parseTiming({ cron: cron ?? null, everyMs: every ?? null, zone })
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    for (const { name, problem } of error.problems)
      problems.add(`${place}.${name.replace(/Ms$/, '')}`, problem)
  }
}

function didYouMean(name: string, known: readonly string[]): string {
  const near = nearName(name, known)
  return near === null ? '' : ` (did you mean '${near}'?)`
}

function slotsOf(name: string, instances: number): string[] {
  return Array.from({ length: instances }, (_, i) => `${name}@${i + 1}`)
}

function stageWorker(name: string, stage: StageForm, { workers }: Parts, directory: string): ManifestWorker {
  const shared = [...workers.values()].some((worker) => worker?.stages.includes(name))
  return {
    name,
    place: `stages.${name}`,
    slots: slotsOf(name, stage.instances ?? (shared ? 0 : 1)),
    stages: [name],
    module: importable(stage.module, directory),
    command: stage.command ?? null,
    concurrency: stage.concurrency ?? null,
    env: stage.env ?? {},
    directory: resolve(directory, stage.directory ?? '.'),
  }
}

function sharedWorker(name: string, worker: WorkerForm, directory: string): ManifestWorker {
  return {
    name,
    place: `workers.${name}`,
    slots: slotsOf(name, worker.instances ?? 1),
    stages: worker.stages,
    module: importable(worker.module, directory),
    command: null,
    concurrency: worker.concurrency ?? null,
    env: worker.env ?? {},
    directory: resolve(directory, worker.directory ?? '.'),
  }
}

/** Files begin with a dot or a slash; everything else is a package. */
function importable(module: string | undefined, directory: string): string | null {
  if (module === undefined) return null
  return /^\.{0,2}\//.test(module) ? resolve(directory, module) : module
}

function toCommand(name: string, stage: StageForm, directory: string): ManifestCommand[] {
  if (stage.command === undefined) return []
  return [
    {
      stage: name,
      command: stage.command,
      env: stage.env ?? {},
      secrets: stage.secrets ?? [],
      directory: resolve(directory, stage.directory ?? '.'),
      concurrency: stage.concurrency ?? 1,
      timeoutMs: stage.timeout ?? 1_800_000,
      priority: stage.priority ?? 5,
      retry: { attempts: stage.retry?.attempts ?? 3, ...backoff(stage) },
      limits: {
        perKey: stage.limits?.perKey ?? 1,
        crashes: stage.limits?.crashes ?? 3,
        rate: stage.limits?.rate ?? null,
      },
    },
  ]
}

/** From 5 s to 30 s; who only names a longer beginning means that pause every time. */
function backoff({ retry = {} }: StageForm): { fromMs: number; toMs: number } {
  const fromMs = retry.from ?? Math.min(5000, retry.to ?? 5000)
  return { fromMs, toMs: retry.to ?? Math.max(30_000, fromMs) }
}

function toSchedule(name: string, schedule: ScheduleForm): ManifestSchedule {
  const { stage, zone, catchUp, enabled } = schedule
  return {
    name,
    stage,
    cron: schedule.cron ?? null,
    everyMs: schedule.every ?? null,
    zone,
    payload: schedule.payload ?? {},
    catchUp,
    jitterMs: schedule.jitter,
    enabled,
  }
}
