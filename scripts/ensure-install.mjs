/**
 * Makes sure that what package-lock.json asks for is installed, and answers with the pinned Node.
 *
 * Runs on any Node from 20 on, because it comes before everything else; imports nothing that would have to be installed.
 * It compares contents, not times of files: an install is repeated only when a version is missing or another one.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, linkSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const repository = fileURLToPath(new URL('../', import.meta.url))
const pinnedNode = join(
  repository,
  'node_modules',
  'node',
  'bin',
  process.platform === 'win32' ? 'node.exe' : 'node',
)

const lookEveryMs = 200

/** Installs with `npm ci` when needed; exits with npm's words when it cannot. Returns the path of the pinned Node. */
export function ensureInstall() {
  if (!installPackages(repository, 'the dependencies')) {
    console.error('npm ci failed: see above. Mend the cause and run the same command again.')
    process.exit(1)
  }
  if (!existsSync(pinnedNode)) {
    console.error(
      `The pinned Node is missing at ${pinnedNode}: its install script did not run. ` +
        'Run `npm rebuild node`, or `npm ci` without --ignore-scripts.',
    )
    process.exit(1)
  }
  return pinnedNode
}

/** The pinned Node when everything is installed, else null. Installs nothing. */
export function installedNode() {
  return whatIsMissing(repository) === null && existsSync(pinnedNode) ? pinnedNode : null
}

/**
 * Installs what the lock file of `folder` asks for, unless it is there. Answers whether it is there now. Of several at once
 * one installs and the others wait for it.
 */
export function installPackages(folder, what, how = ['ci']) {
  if (whatIsMissing(folder) === null) return true
  const release = holdInstall(folder)
  try {
    const missing = whatIsMissing(folder)
    if (missing === null) return true
    console.log(`Installing ${what} (${missing}) …`)
    return runNpm(folder, how)
  } finally {
    release()
  }
}

function runNpm(folder, how) {
  const npm = process.env.npm_execpath
  const [command, first] = npm ? [process.execPath, [npm]] : ['npm', []]
  const { status } = spawnSync(command, [...first, ...how, '--no-audit', '--no-fund'], {
    cwd: folder,
    stdio: ['ignore', 'inherit', 'inherit'],
  })
  return status === 0
}

/** Waits until nobody else installs here; answers with a function that lets the next one. */
function holdInstall(folder) {
  // Beside node_modules, which an install removes.
  const lock = join(folder, 'node_modules.installing')
  let told = false
  for (;;) {
    try {
      writeFileSync(lock, String(process.pid), { flag: 'wx' })
      return () => rmSync(lock, { force: true })
    } catch (error) {
      if (error.code !== 'EEXIST') throw error
    }
    const holder = readText(lock)
    if (holder !== null && /^\d+$/.test(holder) && !isAlive(Number(holder))) takeAway(lock, holder)
    else if (!told) console.log(`Another process (pid ${holder}) installs here; waiting for it …`)
    told = true
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, lookEveryMs)
  }
}

/** Removes what a holder left that has died. Of several that try one gets it; a newer holder's is put back. */
function takeAway(lock, dead) {
  const aside = `${lock}.${process.pid}`
  try {
    renameSync(lock, aside)
    if (readText(aside) !== dead) linkSync(aside, lock)
  } catch (error) {
    if (error.code !== 'ENOENT' && error.code !== 'EEXIST') throw error
  }
  rmSync(aside, { force: true })
}

function isAlive(pid) {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return error.code !== 'ESRCH'
  }
}

function readText(file) {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return null
  }
}

/** This process's environment with the pinned Node and the installed programs first in PATH. */
export function pinnedEnvironment() {
  const first = [dirname(pinnedNode), join(repository, 'node_modules', '.bin')]
  return { ...process.env, PATH: [...first, process.env.PATH ?? ''].join(delimiter) }
}

/** One reason to install, in words, or null. */
function whatIsMissing(folder) {
  const wanted = readPackages(join(folder, 'package-lock.json'))
  const installed = readPackages(join(folder, 'node_modules', '.package-lock.json'))
  if (wanted === null) return null
  if (installed === null) return 'node_modules is missing'
  for (const [path, entry] of Object.entries(wanted)) {
    if (path === '' || entry.link || !path.includes('node_modules/')) continue
    const present = installed[path]
    // Optional ones are left out where they do not fit the platform.
    if (present === undefined && entry.optional) continue
    if (present?.version !== entry.version)
      return `${path.replace(/^.*node_modules\//, '')} ${entry.version} is missing`
  }
  return null
}

function readPackages(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8')).packages
  } catch {
    return null
  }
}
