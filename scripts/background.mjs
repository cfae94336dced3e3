/**
 * scripts/start-all, status and stop-all: `leasehold background` for this repository, with the pinned Node.
 *
 * Installs what is missing before the start only; the other two have nothing to do then.
 */
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { ensureInstall, repository } from './ensure-install.mjs'

const node = ensureInstall()
const main = fileURLToPath(new URL('../packages/cli/src/main.ts', import.meta.url))
const flags = ['--conditions=development', '--disable-warning=ExperimentalWarning']
const [verb, ...rest] = process.argv.slice(2)
const { status, signal } = spawnSync(
  node,
  [...flags, main, 'background', verb, '--dir', repository, ...rest],
  {
    stdio: 'inherit',
  },
)
process.exit(status ?? (signal === null ? 1 : 130))
