#!/usr/bin/env node
/**
 * The `leasehold` command: hands over to the real program with the Node it needs.
 *
 * Plain JavaScript that any Node from 18 on can run. In the repository the sources are run as they are; an installed
 * package runs dist/. Where this Node is too old, the one pinned in node_modules is used.
 * Invariant: arguments, environment, terminal, signals and exit code are the program's; nothing is decided here.
 */
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { constants } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = dirname(fileURLToPath(import.meta.url))
const source = join(here, '../src/main.ts')
const built = join(here, '../dist/main.js')
// Node runs no TypeScript below node_modules: a published package brings no sources.
const fromSource = existsSync(source)
const node = isRecent(process.versions.node) ? process.execPath : findPinnedNode(here)

if (node === null || !(fromSource || existsSync(built))) {
  process.stderr.write(
    node === null
      ? `error: leasehold needs Node 22.18 or newer, this is ${process.versions.node}\n` +
          'hint: install a newer Node, or run `npm ci` in the repository, which brings one\n'
      : 'error: leasehold is not built\nhint: run `npm run build`\n',
  )
  process.exit(1)
}

const args = [
  ...(fromSource ? ['--conditions=development', '--disable-warning=ExperimentalWarning', source] : [built]),
  ...process.argv.slice(2),
]

// Sources that were compiled once are not compiled again: half of the time until a command or a daemon works. In the
// repository's own folder, because in a shared one another user could leave code for us; where it cannot be written, not.
if (fromSource) process.env.NODE_COMPILE_CACHE ??= join(here, '../../../node_modules/.cache/compiled')

if (node === process.execPath && typeof process.execve === 'function' && process.platform !== 'win32') {
  // The same process goes on as the program: signals and process ids need no forwarding.
  process.execve(node, [node, ...args], process.env)
}

const child = spawn(node, args, { stdio: 'inherit' })
// Ctrl-C reaches the whole terminal group; the program decides what it means, and this process waits for it.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal))
child.on('error', (error) => {
  process.stderr.write(`error: ${node} cannot be run: ${error.message}\nhint: run \`npm ci\` again\n`)
  process.exit(1)
})
child.on('exit', (code, signal) => process.exit(code ?? 128 + (constants.signals[signal] ?? 0)))

/** The oldest Node that runs TypeScript and the libraries. */
function isRecent(version) {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  return major > 22 || (major === 22 && minor >= 18)
}

/** The Node that the repository pins as a dev dependency, looked for upwards as npm does. */
function findPinnedNode(start) {
  for (let folder = start; ; folder = dirname(folder)) {
    const candidate = join(folder, 'node_modules/node/bin/node')
    if (existsSync(candidate)) return candidate
    if (folder === dirname(folder)) return null
  }
}
