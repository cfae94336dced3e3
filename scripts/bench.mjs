/**
 * `npm run bench`: installs what is missing, then measures. Arguments go through, e.g. `npm run bench -- --quick`.
 *
 * The peers have a package of their own, bench/package.json, which nobody else needs: it is installed here, on demand.
 * Where that is not possible the run goes on without them and says so.
 */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import {
  ensureInstall,
  installedNode,
  installPackages,
  pinnedEnvironment,
  repository,
} from './ensure-install.mjs'

const given = process.argv.slice(2)
const onlyShows = ['--help', '-h', '--list'].some((flag) => given.includes(flag))
const node = onlyShows ? installedNode() : ensureInstall()
if (node === null) {
  console.error(
    'npm run bench -- [OPTIONS] measures Leasehold beside its peers on one PostgreSQL. What there is to choose from is\n' +
      'known when the dependencies are installed: run `npm ci`, then this again. Nothing was installed now.',
  )
  process.exit(1)
}
const needsPeers = !onlyShows && !given.includes('--without-peers')
// Not `ci`: it insists on optional builds for other platforms. The versions are the lock file's all the same.
const how = ['install', '--no-save', '--omit=optional', '--ignore-scripts']
const missing = needsPeers && !installPackages(join(repository, 'bench'), 'the peers of the benchmark', how)
const flags = ['--conditions=development', '--disable-warning=ExperimentalWarning']
const child = spawn(node, [...flags, join(repository, 'bench', 'main.ts'), ...given], {
  stdio: 'inherit',
  env: {
    ...pinnedEnvironment(),
    LEASEHOLD_BENCH_WITHOUT_PEERS: missing ? '1' : '',
    // For every system alike: what is measured is not how Node compiles a program it has seen before.
    NODE_COMPILE_CACHE: join(repository, 'node_modules', '.cache', 'compiled'),
  },
})
// It has a server to stop before it ends.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal))
child.once('exit', (code) => (process.exitCode = code ?? 1))
