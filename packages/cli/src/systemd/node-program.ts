/**
 * Which Node a program is: asked, because its name says nothing.
 */
import { spawnSync } from 'node:child_process'

const oldest = { major: 22, minor: 18 }
const answersWithinMs = 10_000

/** The version of a Node that can run the services, or why the program cannot. */
export function examineNode(program: string): { readonly version: string } | { readonly problem: string } {
  const question = 'process.versions.bun ? "" : process.versions.node'
  const { stdout, error } = spawnSync(program, ['-p', question], {
    encoding: 'utf8',
    timeout: answersWithinMs,
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  if (error !== undefined) return { problem: `${program} cannot be run: ${error.message}` }
  const [, version, major, minor] = /^((\d+)\.(\d+)\.\d+\S*)\n$/.exec(stdout) ?? []
  if (version === undefined) return { problem: `${program} is no Node: it does not answer with a version` }
  const recent =
    Number(major) > oldest.major || (Number(major) === oldest.major && Number(minor) >= oldest.minor)
  if (recent) return { version }
  return { problem: `${program} is Node ${version}; ${oldest.major}.${oldest.minor} or newer is needed` }
}
