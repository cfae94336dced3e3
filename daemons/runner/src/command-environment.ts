/**
 * What a program finds in its environment: the runner's, without what makes a process this runner, and without secrets.
 *
 * Invariant: a secret reaches a program only when the manifest names it for that program, as a variable, wherever it came
 * from (a credential's file or the runner's own environment). Order, the later wins: the manifest's service, the worker,
 * the runner's environment, the stage.
 */
import type { Manifest, ManifestCommand, ManifestWorker } from '@leasehold/manifest'
import { ConfigError, type ConfigProblem } from '@leasehold/queue'
import { type Environment, secretNames } from '@leasehold/service'
import { readFileSync } from 'node:fs'
import { delimiter, dirname, join } from 'node:path'

/** systemd's words with this process, and what names it. */
const own =
  /^(NOTIFY_SOCKET|WATCHDOG_.*|LISTEN_.*|JOURNAL_STREAM|INVOCATION_ID|MAINPID|CREDENTIALS_DIRECTORY|SLOT_ID|RUN_FILTER_ID|LEASEHOLD_TASK_.*)$/
const usualPath = '/usr/local/bin:/usr/bin:/bin'

/** The environment of a command. Throws {@link ConfigError} when a secret that it is to get is nowhere. */
export function commandEnvironment(
  base: Environment,
  manifest: Manifest,
  worker: ManifestWorker,
  command: ManifestCommand,
): Record<string, string> {
  const secret = new Set<string>([...secretNames, ...manifest.service.secrets])
  const inherited = Object.entries(base).filter(
    (pair): pair is [string, string] => pair[1] !== undefined && !own.test(pair[0]) && !secret.has(pair[0]),
  )
  const merged = {
    ...manifest.service.env,
    ...worker.env,
    ...Object.fromEntries(inherited),
    ...command.env,
    ...readSecrets(base, command),
  }
  // Last, so that `node` is found where nothing but this process's own is there.
  return { ...merged, PATH: `${merged['PATH'] ?? usualPath}${delimiter}${dirname(process.execPath)}` }
}

function readSecrets(base: Environment, { stage, secrets }: ManifestCommand): Record<string, string> {
  const values: Record<string, string> = {}
  const problems: ConfigProblem[] = []
  for (const name of secrets) {
    const value = readCredential(base['CREDENTIALS_DIRECTORY'], name) ?? base[name]
    if (value !== undefined && value !== '') values[name] = value
    else
      problems.push({
        name: `stages.${stage}.secrets`,
        problem: `${name} is nowhere: neither a file in $CREDENTIALS_DIRECTORY nor a variable`,
      })
  }
  if (problems.length > 0) throw new ConfigError(problems)
  return values
}

function readCredential(folder: string | undefined, name: string): string | undefined {
  if (folder === undefined || folder === '') return undefined
  try {
    return readFileSync(join(folder, name), 'utf8').trim()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw new ConfigError([{ name, problem: 'its file in $CREDENTIALS_DIRECTORY cannot be read' }], {
      cause: error,
    })
  }
}
