/**
 * What cannot work on the machine it is meant for, found before anything is written: all problems at once, each with its
 * place in the manifest, or with the file and line that systemd itself complains of.
 */
import type { Manifest } from '@leasehold/manifest'
import { ConfigError, type ConfigProblem } from '@leasehold/queue'
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, isAbsolute, join } from 'node:path'
import { daemons } from '../processes/daemons.ts'
import { toCalendar } from './calendar.ts'
import { below, type Installation, runnerUnit, unitFolder } from './installation.ts'
import { examineNode } from './node-program.ts'
import { type PlannedFile, servicesOf } from './units.ts'

/** Folders that the units' sandbox hides from a service, and the directive that does. */
const hidden: readonly (readonly [folder: string, by: string])[] = [
  ['/home', 'ProtectHome'],
  ['/root', 'ProtectHome'],
  ['/run/user', 'ProtectHome'],
  ['/tmp', 'PrivateTmp'],
  ['/var/tmp', 'PrivateTmp'],
]
/** systemd's limit for the name of a unit. */
const longestName = 255

/** Everything that is wrong; those that the manifest could mend have its places for names. */
export function impossibleIn(installation: Installation): ConfigProblem[] {
  const { manifest } = installation
  const problems = [
    ...userProblems(installation),
    ...pathProblems(installation),
    ...nameProblems(installation),
    ...scheduleProblems(installation),
    ...loginProblems(installation),
  ]
  if (!manifest.service.secrets.includes('DATABASE_URL')) {
    problems.push({
      name: 'service.secrets',
      problem: 'lacks DATABASE_URL: services do not use the embedded database; its file is a credential',
    })
  }
  return problems
}

function refuse(problem: string): ConfigProblem[] {
  return [{ name: 'service.user', problem }]
}

function userProblems(installation: Installation): ConfigProblem[] {
  const { user } = installation.manifest.service
  if (!/^[a-z_][a-z0-9_-]{0,30}$/.test(user)) return refuse(`'${user}' is no name of a user`)
  if (user === 'root') return refuse('is root: what tasks run would own the machine; name a user of its own')
  if (findUser(installation) === null) {
    const make = `adduser --system --group --no-create-home ${user}`
    return refuse(`there is no user '${user}'; make it: ${make}`)
  }
  return []
}

interface Account {
  readonly uid: number
  readonly groups: ReadonlySet<number>
}

/** The user as the installed machine knows it; null when it does not. */
function findUser(installation: Installation): Account | null {
  const { user } = installation.manifest.service
  const database = (name: 'passwd' | 'group'): string[][] => {
    const file = below(installation, `/etc/${name}`)
    const text =
      installation.root === '/'
        ? spawnSync('getent', name === 'passwd' ? [name, user] : [name], { encoding: 'utf8' }).stdout
        : readIfThere(file)
    return (text ?? '').split('\n').map((line) => line.split(':'))
  }
  const entry = database('passwd').find(([name]) => name === user)
  if (entry === undefined) return null
  const member = database('group').filter(([, , , members]) => members?.split(',').includes(user))
  return {
    uid: Number(entry[2]),
    groups: new Set([Number(entry[3]), ...member.map(([, , id]) => Number(id))]),
  }
}

function readIfThere(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return ''
  }
}

function pathProblems(installation: Installation): ConfigProblem[] {
  const { manifest, programs } = installation
  const node = programs.get('runner')?.[0] ?? ''
  const entries = servicesOf(installation).map((name) => programs.get(name)?.at(-1) ?? '')
  const paths = new Map<string, string>([
    ['the manifest', manifest.file],
    ['node', node],
    ...entries.map((entry) => [`the program ${basename(dirname(dirname(entry)))}`, entry] as const),
    ...manifest.workers.map((worker) => [`${worker.place}.directory`, worker.directory] as const),
  ])
  const account = findUser(installation)
  return [...paths].flatMap(([name, path]) => {
    const problem =
      pathProblem(installation, path) ??
      accessProblem(installation, account, path) ??
      (name === 'node' ? versionProblem(installation, path) : null)
    return problem === null ? [] : [{ name, problem }]
  })
}

/** Whether the program is a Node that can run the services; only asked on this machine. */
function versionProblem({ root }: Installation, program: string): string | null {
  const found = root === '/' ? examineNode(program) : null
  return found !== null && 'problem' in found ? found.problem : null
}

function pathProblem(installation: Installation, path: string): string | null {
  if (!isAbsolute(path)) return `'${path}' must be an absolute path`
  if (/\p{Cc}/u.test(path)) return 'its path has control characters, which no unit can hold'
  const covered = [path, ...linked(installation, path)].flatMap((one) => {
    const cover = hidden.find(([folder]) => one === folder || one.startsWith(`${folder}/`))
    return cover === undefined ? [] : [{ one, cover }]
  })
  if (covered[0] === undefined) return null
  const { one, cover } = covered[0]
  const where = one === path ? `${path} is` : `${path} leads to ${one},`
  return `${where} below ${cover[0]}, which ${cover[1]} hides from services: install below /opt or /srv`
}

/** Where a path ends behind its links, when that is elsewhere; only looked at on this machine. */
function linked({ root }: Installation, path: string): string[] {
  if (root !== '/') return []
  try {
    const real = realpathSync(path)
    return real === path ? [] : [real]
  } catch {
    return [] // it is not there, or may not be read: told by accessProblem
  }
}

/** Whether the user reaches a path; only looked at on this machine. */
function accessProblem(installation: Installation, account: Account | null, path: string): string | null {
  if (installation.root !== '/' || account === null) return null
  const steps = [path, ...linked(installation, path)].flatMap((one) =>
    one.split('/').map((_, index, parts) => parts.slice(0, index + 1).join('/') || '/'),
  )
  for (const step of steps) {
    const found = statSync(step, { throwIfNoEntry: false })
    if (found === undefined) return `${step} does not exist`
    // Folders must be entered, files be read.
    const need = found.isDirectory() ? 0o1 : 0o4
    const shift = found.uid === account.uid ? 6 : account.groups.has(found.gid) ? 3 : 0
    if (((found.mode >> shift) & need) === 0) {
      return `the user '${installation.manifest.service.user}' may not ${found.isDirectory() ? 'enter' : 'read'} ${step}`
    }
  }
  return null
}

function nameProblems(installation: Installation): ConfigProblem[] {
  return installation.manifest.workers.flatMap((worker) =>
    worker.slots.flatMap((slot) => {
      const unit = runnerUnit(installation, slot)
      const name = worker.place
      if (!/^[\w:.@-]+$/.test(unit)) return [{ name, problem: `'${slot}' cannot be the instance of a unit` }]
      return unit.length > longestName ? [{ name, problem: `the unit's name ${unit} is too long` }] : []
    }),
  )
}

/** A service of another name would go on with the login of all, and nobody would notice. */
function loginProblems({ manifest }: Installation): ConfigProblem[] {
  const known = ['runner', ...daemons.map(({ name }) => name), 'fire']
  return manifest.service.ownLogins.flatMap((name, index) =>
    known.includes(name)
      ? []
      : [
          {
            name: `service.ownLogins.${index}`,
            problem: `'${name}' is no service; there are: ${known.join(', ')}`,
          },
        ],
  )
}

function scheduleProblems({ manifest, timers }: Installation): ConfigProblem[] {
  if (!timers) return []
  return enabled(manifest).flatMap((schedule) => {
    const name = `schedules.${schedule.name}`
    if (!/^[\w:.-]+$/.test(schedule.name))
      return [{ name, problem: 'its name cannot be the instance of a unit' }]
    const calendar = toCalendar(schedule)
    if (!('problem' in calendar)) return []
    return [{ name, problem: `${calendar.problem}; leave it to the scheduler: install without --timers` }]
  })
}

function enabled(manifest: Manifest): Manifest['schedules'] {
  return manifest.schedules.filter((schedule) => schedule.enabled)
}

/**
 * Has systemd read the files before they are written, where systemd is installed: whatever it says is a refusal.
 * Programs are not looked for when the files are meant for another machine.
 */
export function refuseWhatSystemdRefuses(installation: Installation, files: readonly PlannedFile[]): void {
  if (spawnSync('systemd-analyze', ['--version']).status !== 0) return
  const folder = mkdtempSync(join(tmpdir(), 'leasehold-units-'))
  try {
    const units = files.filter(({ path }) => path.startsWith(`${unitFolder}/`))
    for (const { path, content } of units) {
      const file = join(folder, path.slice(unitFolder.length))
      mkdirSync(dirname(file), { recursive: true })
      writeFileSync(file, content)
    }
    const own = units
      .filter(({ path }) => dirname(path) === unitFolder)
      .map(({ path }) => join(folder, basename(path)))
    const { stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', ...own], { encoding: 'utf8' })
    const complaints = stderr
      .split('\n')
      .filter((line) => line.includes(folder) || line.includes(installation.prefix))
      .filter((line) => installation.root === '/' || !/is not executable/.test(line))
      .map((line) => line.replaceAll(folder, unitFolder))
    if (complaints.length > 0)
      throw new ConfigError(complaints.map((problem) => ({ name: 'systemd-analyze verify', problem })))
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
