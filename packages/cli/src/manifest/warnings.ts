/**
 * What is allowed in a manifest and probably not meant: programs that are not there, stages that nobody serves.
 *
 * Looks at this machine's files, so a manifest that is checked elsewhere than it runs may be warned about in vain.
 */
import type { Manifest, ManifestCommand } from '@leasehold/manifest'
import { findExecutable } from '@leasehold/stages'
import { existsSync } from 'node:fs'
import { dirname, isAbsolute, relative, resolve } from 'node:path'

/** Programs that run the file which their first word without a dash names. */
const interpreters = /^(node|bun|deno|tsx|python[\d.]*|ruby|perl|php|bash|sh|dash)$/
const scriptEndings = /\.([cm]?[jt]s|py|rb|pl|php|sh)$/

/** One line for each; `path` is the PATH that programs are looked for in. */
export async function manifestWarnings(manifest: Manifest, path: string): Promise<string[]> {
  const programs = await Promise.all(
    manifest.commands.map((command) => programWarning(manifest, command, path)),
  )
  return [
    ...programs.filter((warning) => warning !== null),
    ...manifest.workers
      .filter(({ module }) => module !== null && isAbsolute(module) && !existsSync(module))
      .map(
        ({ name, module }) =>
          `worker ${name}: its module ${relative(manifest.directory, module!)} does not exist`,
      ),
    ...unserved(manifest),
  ]
}

async function programWarning(
  { directory: base }: Manifest,
  { stage, command, directory, env }: ManifestCommand,
  path: string,
): Promise<string | null> {
  const [program = '', ...words] = command
  const ownPath = `${env['PATH'] ?? path}:${dirname(process.execPath)}`
  const found = await findExecutable(program, directory, ownPath)
  if ('problem' in found) return `stage ${stage}: ${found.problem}`
  const script = interpreters.test(program) ? words.find((word) => !word.startsWith('-')) : undefined
  if (script === undefined || !scriptEndings.test(script) || existsSync(resolve(directory, script)))
    return null
  return `stage ${stage}: ${relative(base, resolve(directory, script))} does not exist`
}

function unserved({ commands, workers, schedules }: Manifest): string[] {
  const served = new Set(workers.flatMap((worker) => worker.stages))
  return commands
    .filter(({ stage }) => !served.has(stage))
    .map(({ stage }) => {
      const waiting = schedules.some((schedule) => schedule.stage === stage && schedule.enabled)
      return `stage ${stage}: no process here serves it${waiting ? ', and a schedule submits to it' : ''}`
    })
}
