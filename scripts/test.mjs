/**
 * `npm test`: everything a contributor needs to trust a change.
 *
 * Installs when needed, runs the whole suite on PostgreSQL 18, of it the tests of the database program on 14 to 17 as well.
 * With arguments (`npm test -- packages/queue`) they go to vitest and one version is tested: LEASEHOLD_TEST_PG, or 18.
 * At the end stand the failures of all runs by name, so that they are found in a long log, and `N passed, N failed`, summed
 * over all runs; the exit code is 1 when anything failed.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { stripVTControlCharacters } from 'node:util'
import { ensureInstall, pinnedEnvironment, repository } from './ensure-install.mjs'

/** Tests of a real PgBouncer, which no package brings along. */
const poolerTests = '**/pgbouncer.test.ts'
const databaseTests = ['packages/queue/test', 'packages/postgres/test']
/** Of the server that comes along, which is an 18; the older ones are somebody's own. */
const embeddedTests = '**/embedded*.test.ts'
const systemdTests = 'test/systemd/**'

const node = ensureInstall()
const given = process.argv.slice(2)
const reports = mkdtempSync(join(tmpdir(), 'leasehold-reports-'))
const totals = { passed: 0, failed: 0 }
const failures = []
let runs = 0

if (given.length > 0) {
  runVitest(process.env.LEASEHOLD_TEST_PG ?? '18', given)
} else {
  const absent = [...(poolerIsHere() ? [] : [poolerTests]), ...(systemdIsHere() ? [] : [systemdTests])]
  const elsewhere = databaseTests.map((folder) => `${folder}/!(pgbouncer).test.ts`)
  runVitest(
    '18',
    [...absent, ...elsewhere].flatMap((tests) => ['--exclude', tests]),
  )
  // These files share nothing but the server, so they may share a process: starting one for each costs more than most run.
  const sharing = ['--no-isolate', '--exclude', poolerTests]
  runVitest('18', [...databaseTests, ...sharing])
  for (const major of olderVersions())
    runVitest(major, [...databaseTests, ...sharing, '--exclude', embeddedTests])
}
rmSync(reports, { recursive: true, force: true })
for (const line of failures) console.log(line)
console.log(`${totals.passed} passed, ${totals.failed} failed`)
process.exit(totals.failed === 0 ? 0 : 1)

/** The embedded builds of the older versions exist for Linux on x64; a container engine has them for all. */
function olderVersions() {
  const all = ['14', '15', '16', '17']
  if (process.env.LEASEHOLD_TEST_POSTGRES === 'container') return all
  const present = all.filter((major) => existsSync(join(repository, 'node_modules', `pg${major}`)))
  const absent = all.filter((major) => !present.includes(major))
  if (absent.length > 0) {
    console.log(`Not tested here, for want of a build: PostgreSQL ${absent.join(', ')}.`)
    console.log('LEASEHOLD_TEST_POSTGRES=container tests them with a container engine.')
  }
  return present
}

/**
 * The system's own build of an older version, when it is no older than the package: distributions bring releases sooner, and
 * builds that compile plans to machine code, which the packages cannot. Null: the package is used.
 */
function systemBuild(major) {
  if (major === '18' || process.env.LEASEHOLD_TEST_POSTGRES === 'container') return null
  const packaged = versionOf(join(repository, 'node_modules', `pg${major}`, 'native', 'bin'))
  for (const binDir of [`/usr/lib/postgresql/${major}/bin`, `/usr/pgsql-${major}/bin`]) {
    const version = versionOf(binDir)
    if (version !== null && minorOf(version) >= minorOf(packaged)) return { binDir, version }
  }
  return null
}

/** As its programs say: `postgres (PostgreSQL) 15.20 (…)`; null when there are none. */
function versionOf(binDir) {
  if (!['postgres', 'initdb'].every((program) => existsSync(join(binDir, program)))) return null
  const { status, stdout } = spawnSync(join(binDir, 'postgres'), ['--version'], { encoding: 'utf8' })
  return status === 0 ? stdout.trim() : null
}

function minorOf(version) {
  return Number(/ \d+\.(\d+)/.exec(version ?? '')?.[1] ?? -1)
}

/** Missing, it is said; where LEASEHOLD_TEST_REQUIRE_PGBOUNCER is set, the tests run and fail instead. */
function poolerIsHere() {
  if (process.env.LEASEHOLD_TEST_REQUIRE_PGBOUNCER) return true
  const folders = `${process.env.PATH}:/usr/sbin`.split(':')
  if (folders.some((folder) => existsSync(join(folder, 'pgbouncer')))) return true
  console.log('Not tested here, for want of the program: PgBouncer (Debian: apt-get install pgbouncer).')
  return false
}

/** Whether a systemd can be started in namespaces of its own; LEASEHOLD_TEST_REQUIRE_SYSTEMD: run and fail instead. */
function systemdIsHere() {
  if (process.env.LEASEHOLD_TEST_REQUIRE_SYSTEMD) return true
  const folder = mkdtempSync(join(tmpdir(), 'leasehold-systemd-'))
  const sandbox = join(repository, 'test', 'systemd', 'sandbox.sh')
  const up = spawnSync(sandbox, ['up', folder, repository], { encoding: 'utf8' })
  spawnSync(sandbox, ['down', folder])
  rmSync(folder, { recursive: true, force: true })
  if (up.status === 0) return true
  const why = (up.stderr ?? '').trim().split('\n')[0] || 'it needs Linux, root and systemd'
  console.log(`Not tested here: services under systemd (${why}).`)
  return false
}

function runVitest(major, args) {
  const what = args[0] === '--exclude' ? 'all but the tests of the database program' : args.join(' ')
  console.log(`\nPostgreSQL ${major}: ${what}`)
  const report = join(reports, `${(runs += 1)}.json`)
  const vitest = join(repository, 'node_modules', 'vitest', 'vitest.mjs')
  const reporting = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`]
  const own = systemBuild(major)
  if (own !== null) console.log(`on ${own.version} of this system`)
  const { status } = spawnSync(node, [vitest, 'run', ...reporting, ...args], {
    cwd: repository,
    env: {
      ...pinnedEnvironment(),
      LEASEHOLD_TEST_PG: major,
      ...(own && { LEASEHOLD_TEST_PG_BIN: own.binDir }),
    },
    stdio: 'inherit',
  })
  const { passed, failed, named } = count(report)
  totals.passed += passed
  // A file that does not load and an error outside of any test fail a run without failing a test.
  totals.failed += failed === 0 && status !== 0 ? 1 : failed
  failures.push(...named.map((name) => `FAILED on PostgreSQL ${major}: ${name}`))
  if (named.length === 0 && status !== 0) {
    failures.push(`FAILED on PostgreSQL ${major}: outside of any test (${what}), exit code ${status}`)
  }
}

function count(report) {
  if (!existsSync(report)) return { passed: 0, failed: 1, named: [] }
  const { numPassedTests, numFailedTests, testResults } = JSON.parse(readFileSync(report, 'utf8'))
  const named = testResults.flatMap((file) => {
    const path = relative(repository, file.name)
    const unloaded = file.status === 'failed' && file.assertionResults.length === 0
    if (unloaded) return [`${path} did not load\n${indented(file.message)}`]
    return file.assertionResults
      .filter((test) => test.status === 'failed')
      .map((test) => `${path}: ${test.fullName}\n${indented(test.failureMessages.join('\n'))}`)
  })
  return { passed: numPassedTests, failed: Math.max(numFailedTests, named.length), named }
}

function indented(text) {
  const lines = stripVTControlCharacters(text).split('\n')
  return lines
    .filter((line) => !/^\s+at .*(node_modules|new Promise)/.test(line))
    .slice(0, 15)
    .map((line) => `    ${line}`)
    .join('\n')
}
