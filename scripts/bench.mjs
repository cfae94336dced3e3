/**
 * `npm run bench`: installs what is missing, then measures. Arguments go through, e.g. `npm run bench -- --quick`.
 */
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { ensureInstall } from './ensure-install.mjs'

const node = ensureInstall()
const main = fileURLToPath(new URL('../bench/main.ts', import.meta.url))
const flags = ['--conditions=development', '--disable-warning=ExperimentalWarning', '--expose-gc']
process.exitCode =
  spawnSync(node, [...flags, main, ...process.argv.slice(2)], { stdio: 'inherit' }).status ?? 1
