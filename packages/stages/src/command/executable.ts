/**
 * Finding a program before it is started, so that a missing one is said in words and not by a shell's exit code.
 */
import { constants } from 'node:fs'
import { access, stat } from 'node:fs/promises'
import { delimiter, isAbsolute, join, resolve } from 'node:path'

/** The file that `program` is, by the rules of a shell; else why it cannot be started there. */
export async function findExecutable(
  program: string,
  directory: string,
  path: string,
): Promise<{ readonly file: string } | { readonly problem: string }> {
  const folder = await stat(directory).catch(() => null)
  if (folder === null || !folder.isDirectory())
    return { problem: `its working directory ${directory} does not exist` }
  const named = program.includes('/')
  const candidates = named
    ? [resolve(directory, program)]
    : path.split(delimiter).filter(Boolean).map((place) => join(isAbsolute(place) ? place : resolve(directory, place), program)) // prettier-ignore
  let unusable: string | null = null
  for (const file of candidates) {
    const found = await stat(file).catch(() => null)
    if (found === null) continue
    if (found.isFile() && (await mayExecute(file))) return { file }
    unusable ??= file
  }
  if (unusable !== null)
    return { problem: `${unusable} may not be executed (chmod +x, or name its interpreter)` }
  return {
    problem: named ? `${candidates[0]} does not exist` : `there is no program '${program}' in PATH (${path})`,
  }
}

function mayExecute(file: string): Promise<boolean> {
  return access(file, constants.X_OK).then(
    () => true,
    () => false,
  )
}
