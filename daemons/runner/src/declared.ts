/**
 * What a manifest declares for this process: the worker that its slot names, with its stages and its environment.
 *
 * Invariant: every stage of the worker is served, as a program or from its module, and says how many workers it expects.
 * The manifest's settings are defaults: a variable that is set wins. Reading the file is @leasehold/manifest's.
 */
import { type Manifest, type ManifestWorker, readManifest } from '@leasehold/manifest'
import { ConfigError, nearName } from '@leasehold/queue'
import type { Environment } from '@leasehold/service'
import { openCommands } from '@leasehold/stages'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'
import { commandEnvironment } from './command-environment.ts'
import { type AnyStage, loadStages, type StageSurroundings } from './stages.ts'

/** The worker a process is to be. */
export interface Declared {
  readonly worker: ManifestWorker
  /** What the manifest sets and the environment does not. */
  readonly variables: Readonly<Record<string, string>>
  /** Its stages. Throws {@link ConfigError}. */
  stages(environment: Environment, surroundings: StageSurroundings): Promise<AnyStage[]>
}

/** Finds the worker of a slot. Throws {@link ConfigError}: for the manifest's problems, and for a slot it does not have. */
export async function readDeclared(file: string, slot: string, environment: Environment): Promise<Declared> {
  const manifest = await readManifest(file)
  const worker = workerOf(manifest, slot)
  const settings = {
    ...manifest.service.env,
    ...worker.env,
    LEASEHOLD_LEASE_TTL_MS: String(manifest.leaseTtlMs),
    LEASEHOLD_BEAT_INTERVAL_MS: String(manifest.beatIntervalMs),
    LEASEHOLD_DRAIN_TIMEOUT_MS: String(manifest.drainTimeoutMs),
    LEASEHOLD_WEDGE_LIMIT_MS: String(manifest.wedgeLimitMs),
  }
  return {
    worker,
    variables: Object.fromEntries(Object.entries(settings).filter(([name]) => !isSet(environment[name]))),
    stages: async (present, surroundings) => {
      const stages = [
        ...commandStages(manifest, worker, present),
        ...(await moduleStages(manifest, worker, surroundings)),
      ]
      return stages.map((stage) => expecting(stage, manifest))
    },
  }
}

function isSet(value: string | undefined): boolean {
  return value !== undefined && value.trim() !== ''
}

function workerOf(manifest: Manifest, slot: string): ManifestWorker {
  const [, name, instance] = /^(.*)@([1-9]\d{0,3})$/.exec(slot) ?? []
  if (name === undefined || instance === undefined)
    throw refusal(`'${slot}' names no worker of the manifest; write its name and a number: lead_verify@2`)
  const worker = manifest.workers.find((one) => one.name === name)
  if (worker !== undefined) return worker
  const names = manifest.workers.map((one) => one.name)
  const near = nearName(name, names)
  throw refusal(
    `there is no worker '${name}' in ${manifest.file}${near === null ? `, which has: ${names.join(', ')}` : `; did you mean ${near}@${instance}?`}`,
  )
}

function refusal(problem: string): ConfigError {
  return new ConfigError([{ name: '--slot', problem }])
}

function commandStages(manifest: Manifest, worker: ManifestWorker, environment: Environment): AnyStage[] {
  const commands = openCommands()
  return manifest.commands
    .filter((command) => worker.stages.includes(command.stage))
    .map((command) =>
      commands.stage({
        name: command.stage,
        command: command.command,
        directory: command.directory,
        env: commandEnvironment(environment, manifest, worker, command),
        concurrency: command.concurrency,
        timeout: command.timeoutMs,
        priority: command.priority,
        retry: {
          attempts: command.retry.attempts,
          from: command.retry.fromMs,
          to: command.retry.toMs,
        },
        limits: command.limits,
      }),
    )
}

async function moduleStages(
  manifest: Manifest,
  worker: ManifestWorker,
  surroundings: StageSurroundings,
): Promise<AnyStage[]> {
  const programs = manifest.commands.map((command) => command.stage)
  const names = worker.stages.filter((stage) => !programs.includes(stage))
  if (worker.module === null || names.length === 0) return []
  enter(worker)
  try {
    return await loadStages(importable(worker.module, manifest.file), names, surroundings)
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    // The options that the loader speaks of are settings here.
    const problems = error.problems.map(({ name, problem }) => ({
      name: name.replace(/^--(module|stage)$/, `worker ${worker.name}: $1`),
      problem,
    }))
    throw new ConfigError(problems, { cause: error })
  }
}

/** A module's relative paths start in its worker's directory, as they do under systemd. */
function enter({ name, directory }: ManifestWorker): void {
  try {
    process.chdir(directory)
  } catch (error) {
    const problem = `${directory} cannot be entered: ${(error as Error).message}`
    throw new ConfigError([{ name: `worker ${name}: directory`, problem }], { cause: error })
  }
}

/** A package is the manifest's own where it has one of that name, else ours. */
function importable(module: string, file: string): string {
  if (module.startsWith('/')) return pathToFileURL(module).href
  try {
    return pathToFileURL(createRequire(file).resolve(module)).href
  } catch {
    return module
  }
}

function expecting(stage: AnyStage, manifest: Manifest): AnyStage {
  const expectedWorkers = manifest.workers
    .filter((worker) => worker.stages.includes(stage.name))
    .reduce((sum, worker) => sum + worker.slots.length, 0)
  return { ...stage, expectedWorkers, run: (ctx) => stage.run(ctx) }
}
