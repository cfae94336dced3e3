/**
 * On what it was measured: a figure without this is worth nothing.
 */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { cpus, totalmem, type } from 'node:os'
import { fileURLToPath } from 'node:url'

/** What is printed and kept with the figures. */
export interface Machine {
  readonly cores: number
  readonly processor: string
  readonly memoryGib: number
  readonly system: string
  readonly node: string
  readonly commit: string
  readonly versions: Readonly<Record<string, string>>
}

const repository = fileURLToPath(new URL('../', import.meta.url))

/** The installed version of a package, as the systems find it; null when it is not installed. */
function versionOf(name: string): string | null {
  for (const folder of ['bench/node_modules', 'node_modules']) {
    try {
      const text = readFileSync(`${repository}${folder}/${name}/package.json`, 'utf8')
      return (JSON.parse(text) as { version: string }).version
    } catch {
      // the next folder
    }
  }
  return null
}

function git(...args: string[]): string {
  return spawnSync('git', args, { cwd: repository, encoding: 'utf8' }).stdout?.trim() ?? ''
}

/** Looks at this machine and this checkout. */
export function describeMachine(): Machine {
  const names = ['pg', 'graphile-worker', 'pg-boss', 'bullmq', '@dbos-inc/dbos-sdk']
  const versions = names.map((name) => [name, versionOf(name)] as const).filter(([, found]) => found !== null)
  const changed =
    git('status', '--porcelain', '--untracked-files=no', '--', '.', ':!docs/benchmarks') === ''
      ? ''
      : ' with changes'
  return {
    cores: cpus().length,
    processor: cpus()[0]?.model.trim() ?? 'unknown',
    memoryGib: Math.round(totalmem() / 2 ** 30),
    system: type(),
    node: process.version,
    commit: (git('rev-parse', '--short', 'HEAD') || 'unknown') + changed,
    versions: Object.fromEntries(versions) as Record<string, string>,
  }
}
