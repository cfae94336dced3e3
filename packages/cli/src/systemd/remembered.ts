/**
 * What an earlier install was asked for, so that the next one need not be asked again: read from the files it wrote.
 *
 * Invariant: the installed files are the only memory. A flag that is given wins over what is remembered; what a manifest was
 * never installed with is the default.
 */
import { globSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { usageError } from '../failure.ts'
import { below, type Installation, unitFolder } from './installation.ts'

/** The flags that decide what is written; undefined: not given. */
export interface Flags {
  readonly prefix?: string | undefined
  readonly timers?: boolean | undefined
  readonly node?: string | undefined
}

/** An installation that is there. */
export interface Installed {
  readonly prefix: string
  /** The manifest it was made from. */
  readonly file: string
  readonly timers: boolean
  readonly node: string | undefined
}

const start = '# Installed with: '
export const defaultPrefix = 'leasehold'

/** The line that remembers, for the drop-in of the target. */
export function rememberingLine({ timers, node }: Installation): string {
  return `${start}${JSON.stringify({ timers, ...(node === null ? {} : { node }) })}`
}

/** All installations below a root, by their prefixes. */
export function listInstalled(root: string): Installed[] {
  const folder = below({ root }, unitFolder)
  return globSync('*.target.d/10-leasehold.conf', { cwd: folder })
    .toSorted()
    .flatMap((name) => {
      const [first = '', ...lines] = readFileSync(join(folder, name), 'utf8').split('\n')
      const [, prefix, file] =
        /^# Written by leasehold systemd install \(([^)]*)\) from (.+)$/.exec(first) ?? []
      if (prefix === undefined || file === undefined || basename(join(name, '..')) !== `${prefix}.target.d`)
        return []
      const flags = lines.find((line) => line.startsWith(start))?.slice(start.length)
      return [{ prefix, file, ...parsed(flags) }]
    })
}

/** Somebody may have edited the line; what cannot be read is not remembered. */
function parsed(text: string | undefined): Pick<Installed, 'timers' | 'node'> {
  try {
    const { timers, node } = JSON.parse(text ?? '{}') as Partial<Record<'timers' | 'node', unknown>>
    return { timers: timers === true, node: typeof node === 'string' ? node : undefined }
  } catch {
    return { timers: false, node: undefined }
  }
}

/** The flags of the last install of a manifest, with those that are given in their places; and which were remembered. */
export function recall(
  root: string,
  file: string,
  given: Flags,
): { flags: Flags & { readonly prefix: string }; remembered: string[] } {
  const ours = listInstalled(root).filter((one) => one.file === file)
  if (given.prefix === undefined && ours.length > 1)
    throw usageError(
      `the manifest is installed under several names: ${ours.map(({ prefix }) => prefix).join(', ')}`,
      'say which is meant: --prefix NAME',
    )
  const before = ours.find(({ prefix }) => prefix === (given.prefix ?? ours[0]?.prefix))
  const flags = {
    prefix: given.prefix ?? before?.prefix ?? defaultPrefix,
    timers: given.timers ?? before?.timers,
    node: given.node ?? before?.node,
  }
  const remembered = [
    ...(given.prefix === undefined && flags.prefix !== defaultPrefix ? [`--prefix ${flags.prefix}`] : []),
    ...(given.timers === undefined && flags.timers === true ? ['--timers'] : []),
    ...(given.node === undefined && flags.node !== undefined ? [`--node ${flags.node}`] : []),
  ]
  return { flags, remembered }
}
