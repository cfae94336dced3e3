/**
 * The manifest of a command: found, read, and its environments held against the settings there are.
 *
 * Refuses what any of the processes would refuse at its start, so that `leasehold check` is enough for CI.
 */
import { type Manifest, readManifest } from '@leasehold/manifest'
import { ConfigError, type ConfigProblem } from '@leasehold/queue'
import { readConfig } from '@leasehold/service'
import { exitCodes } from '../exit-codes.ts'
import { CommandError } from '../failure.ts'

/** Where a manifest is when nobody says. */
export const defaultManifest = 'leasehold.config.ts'

/** Reads a manifest. Throws CommandError 'CONFIG' (exit code 2) with every problem. */
export async function openManifest(file: string): Promise<Manifest> {
  try {
    const manifest = await readManifest(file)
    const problems = settingProblems(manifest)
    if (problems.length > 0) throw new ConfigError(problems)
    return manifest
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    const { problems } = error
    const count = problems.length === 1 ? '1 problem' : `${problems.length} problems`
    const lines = problems.map(({ name, problem }) => `  ${name}: ${problem}`)
    throw new CommandError(
      'CONFIG',
      `${file} has ${count}:\n${lines.join('\n')}`,
      `mend the manifest and look again: npx leasehold check ${file === defaultManifest ? '' : file}`.trimEnd(),
      exitCodes.usage,
      { cause: error },
    )
  }
}

/** What the processes would say of the settings that the manifest gives them. */
function settingProblems({ service, workers, commands }: Manifest): ConfigProblem[] {
  const environments: [place: string, env: Readonly<Record<string, string>>][] = [
    ['service.env', service.env],
    ...workers.map(({ name, env }): [string, typeof env] => [`${name}.env`, env]),
    ...commands.map(({ stage, env }): [string, typeof env] => [`${stage}.env`, env]),
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
