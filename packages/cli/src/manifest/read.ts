/**
 * The manifest of a command: found, read, and its environments held against the settings there are.
 *
 * Refuses what any of the processes would refuse at its start, so that `leasehold check` is enough for CI.
 */
import { type Manifest, readManifest, withLines } from '@leasehold/manifest'
import { ConfigError, type ConfigProblem } from '@leasehold/queue'
import { type ConfigReader, readConfig } from '@leasehold/service'
import { exitCodes } from '../exit-codes.ts'
import { CommandError } from '../failure.ts'
import { serviceSettings } from '../process-managers/processes.ts'

/** Where a manifest is when nobody says. */
export const defaultManifest = 'leasehold.config.ts'

/** Reads a manifest. Throws CommandError 'CONFIG' (exit code 2) with every problem. */
export async function openManifest(file: string): Promise<Manifest> {
  const manifest = await readManifest(file).catch((error: unknown) => {
    throw error instanceof ConfigError ? refusal(file, error.problems, lookAgain(file), error) : error
  })
  await refuseProblems(manifest, settingProblems(manifest), file)
  return manifest
}

/** Throws CommandError 'CONFIG' (exit code 2) with every problem and its line, unless there is none. */
export async function refuseProblems(
  manifest: Manifest,
  problems: readonly ConfigProblem[],
  file: string = manifest.file,
  hint: string = lookAgain(file),
): Promise<void> {
  if (problems.length > 0) throw refusal(file, await withLines(manifest.file, problems), hint)
}

function lookAgain(file: string): string {
  return `mend the manifest and look again: npx leasehold check ${file === defaultManifest ? '' : file}`.trimEnd()
}

function refusal(
  file: string,
  problems: readonly ConfigProblem[],
  hint: string,
  cause?: ConfigError,
): CommandError {
  const count = problems.length === 1 ? '1 problem' : `${problems.length} problems`
  const lines = problems.map(({ name, problem }) => `  ${name}: ${problem}`)
  return new CommandError('CONFIG', `${file} has ${count}:\n${lines.join('\n')}`, hint, exitCodes.usage, {
    cause,
  })
}

type Environment = Readonly<Record<string, string>>

/** What the processes would say of the settings that the manifest gives them: each as it will have them, times included. */
function settingProblems(manifest: Manifest): ConfigProblem[] {
  const { service, workers, commands, controls } = manifest
  const common = serviceSettings(manifest)
  const problems = [
    ...problemsOf(common, 'cli', 'service', service.env),
    ...workers.flatMap(({ place, env }) => problemsOf({ ...common, ...env }, 'runner', place, env)),
    ...commands.flatMap(({ stage, env }) => problemsOf({ ...common, ...env }, 'cli', `stages.${stage}`, env)),
    ...(controls === 0 ? [] : controlProblems(common, service)),
  ]
  return [...new Map(problems.map((problem) => [problem.name, problem])).values()]
}

/** Named where they stand: in this place's own variables, or in those of every process. */
function problemsOf(
  all: Environment,
  reader: ConfigReader,
  place: string,
  own: Environment,
): ConfigProblem[] {
  const settings = Object.fromEntries(Object.entries(all).filter(([name]) => name.startsWith('LEASEHOLD_')))
  // Its address is a secret, or that of every process's environment: what goes with one is not refused for want of it.
  const address =
    settings['LEASEHOLD_POOLER'] === undefined ? {} : { DATABASE_URL: 'postgres://db.example/queue' }
  try {
    readConfig({ ...settings, ...address }, reader)
    return []
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    return error.problems.map(({ name, problem }) => ({
      name: `${name in own ? place : 'service'}.env.${name}`,
      problem,
    }))
  }
}

/** Beyond loopback the control service wants a token, which is a secret: it has to be named as one. */
function controlProblems(common: Environment, { secrets }: Manifest['service']): ConfigProblem[] {
  const token = 'LEASEHOLD_METRICS_TOKEN'
  const given = secrets.includes(token) ? { [token]: '-'.repeat(64) } : {}
  return problemsOf({ ...common, ...given }, 'control', 'service', common).map(({ name, problem }) =>
    name === `service.env.${token}`
      ? { name: 'service.secrets', problem: `${token} ${problem}` }
      : { name, problem },
  )
}
