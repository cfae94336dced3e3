/**
 * Reading a manifest's file: TypeScript and JavaScript are imported, JSON is parsed.
 *
 * Invariant: whatever is wrong with the file or in it is one ConfigError that lists every problem and starts nothing.
 */
import { ConfigError, type ConfigProblem } from '@leasehold/queue'
import { readFile } from 'node:fs/promises'
import { basename, extname, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { assemble } from './assemble.ts'
import { lineOf, linesOf } from './lines.ts'
import type { Manifest } from './manifest.ts'
import { importWithOwnPackages } from './own-packages.ts'

/** The manifest of a file. Throws {@link ConfigError}. What its code throws is reported with its message. */
export async function readManifest(file: string): Promise<Manifest> {
  const path = resolve(file)
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw refusal(
      path,
      `cannot be read: ${error.code === 'ENOENT' ? 'there is no such file' : error.message}`,
      error,
    )
  })
  const value = await valueOf(path, text)
  try {
    return assemble(value, path)
  } catch (error) {
    throw error instanceof ConfigError ? new ConfigError(located(error.problems, path, text)) : error
  }
}

/** The same problems of a manifest's file, each with the line it stands in where that can be seen. Never throws. */
export async function withLines(file: string, problems: readonly ConfigProblem[]): Promise<ConfigProblem[]> {
  const text = await readFile(file, 'utf8').catch(() => '')
  return located(problems, file, text)
}

function located(problems: readonly ConfigProblem[], path: string, text: string): ConfigProblem[] {
  const lines = linesOf(text)
  return problems.map(({ name, problem }) => {
    const line = lineOf(lines, name)
    return { name, problem: line === null ? problem : `${problem} (${basename(path)}:${line})` }
  })
}

async function valueOf(path: string, text: string): Promise<unknown> {
  const kind = extname(path)
  try {
    if (kind === '.json') return JSON.parse(text) as unknown
    if (/^\.[cm]?[jt]s$/.test(kind))
      return exported(path, await importWithOwnPackages(pathToFileURL(path).href))
  } catch (error) {
    if (error instanceof ConfigError) throw error
    throw refusal(path, `cannot be loaded: ${error instanceof Error ? error.message : String(error)}`, error)
  }
  throw refusal(path, `must end in .ts, .js or .json, not '${kind}'`)
}

function exported(path: string, module: object): unknown {
  if ('default' in module) return module.default
  throw refusal(path, 'has no default export; write: export default defineManifest({ … })')
}

function refusal(path: string, problem: string, cause?: unknown): ConfigError {
  return new ConfigError([{ name: basename(path), problem }], { cause })
}
