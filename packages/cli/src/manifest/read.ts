/**
 * The manifest of a command: found, read, and its environments held against the settings there are.
 *
 * Refuses what any of the processes would refuse at its start, so that `leasehold check` is enough for CI.
 */
import { type Manifest, readManifest, withLines } from '@leasehold/manifest'
import { ConfigError, type ConfigProblem } from '@leasehold/queue'
import { readConfig } from '@leasehold/service'
import { exitCodes } from '../exit-codes.ts'
import { CommandError } from '../failure.ts'

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

/** What the processes would say of the settings that the manifest gives them. */
function settingProblems({ service, workers, commands }: Manifest): ConfigProblem[] {
  const environments: [place: string, env: Readonly<Record<string, string>>][] = [
    ['service.env', service.env],
    ...workers.map(({ place, env }): [string, typeof env] => [`${place}.env`, env]),
    ...commands.map(({ stage, env }): [string, typeof env] => [`stages.${stage}.env`, env]),
  ]
  const problems = environments.flatMap(([place, env]) => {
    const settings = Object.fromEntries(Object.entries(env).filter(([name]) => name.startsWith('LEASEHOLD_')))
    try {
      readConfig(settings, 'cli')
      return []
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error
      return error.problems.map(({ name, problem }) => ({ name: `${place}.${name}`, problem }))
    }
  })
  return [...new Map(problems.map((problem) => [problem.name, problem])).values()]
}
