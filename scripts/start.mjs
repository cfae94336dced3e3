/**
 * `npm start`: installs what is missing, then starts everything and runs the lead pipeline. Arguments go through:
 * `npm start -- --source FILE --city Austin --target 50 --once`.
 */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ensureInstall, repository } from './ensure-install.mjs'

const node = ensureInstall()
// What was compiled once is not compiled again, by none of the processes that come of this one.
process.env.NODE_COMPILE_CACHE ??= join(repository, 'node_modules', '.cache', 'compiled')
const main = fileURLToPath(new URL('../packages/cli/src/main.ts', import.meta.url))
const flags = ['--conditions=development', '--disable-warning=ExperimentalWarning']
const child = spawn(node, [...flags, main, 'start', ...process.argv.slice(2)], { stdio: 'inherit' })
// The signal reaches the child by itself or through us; this process waits for its orderly end.
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => child.kill(signal))
child.once('exit', (code, signal) => process.exit(code ?? (signal === null ? 1 : 130)))
