/**
 * What `leasehold systemd` writes for a manifest, and what it refuses before it writes anything.
 *
 * Files go below a folder of the test; what systemd does with them is test/systemd.
 */
import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeEach, expect, test } from 'vitest'
import { type ManifestSchedule, readManifest } from '@leasehold/manifest'
import { secretNames } from '@leasehold/service'
import { toCalendar } from '../src/systemd/calendar.ts'
import { describeInstallation } from '../src/systemd/installation.ts'
import { impossibleIn } from '../src/systemd/refuse.ts'
import { timerLimits } from '../src/systemd/timer-limits.ts'
import { declared } from './declared.ts'
import { leasehold, leaseholdJson } from './leasehold.ts'

const repository = fileURLToPath(new URL('../../../', import.meta.url))
const systemdUnits = join(repository, 'systemd')
const folder = mkdtempSync(join(tmpdir(), 'leasehold-units-test-'))
chmodSync(folder, 0o755)
const root = join(folder, 'root')
const manifestFile = join(folder, 'leasehold.config.json')
afterAll(() => rmSync(folder, { recursive: true, force: true }))

beforeEach(() => {
  rmSync(root, { recursive: true, force: true })
  mkdirSync(join(root, 'etc'), { recursive: true })
  writeFileSync(join(root, 'etc/passwd'), 'leasehold:x:993:993::/nonexistent:/usr/sbin/nologin\n')
  writeFileSync(manifestFile, JSON.stringify(declared))
})

function systemd(...args: string[]): ReturnType<typeof leasehold> {
  return leasehold(['systemd', ...args], {})
}

interface File {
  readonly path: string
  readonly content: string
}
const printed = (...args: string[]): Promise<File[]> => leaseholdJson<File[]>(['systemd', 'print', '--config', manifestFile, ...args], {}) // prettier-ignore
const contentOf = (files: readonly File[], path: string): string =>
  files.find((file) => file.path === path)?.content ?? `no ${path}`

test('the files of a manifest: its slots, its user and folders, secrets by name only, limits that fit', async () => {
  const files = await printed()
  const units = '/etc/systemd/system'
  expect(contentOf(files, `${units}/leasehold.target.d/10-leasehold.conf`).match(/^Wants=.*/gm)).toEqual([
    'Wants=leasehold-heartbeat-monitor.service',
    'Wants=leasehold-scheduler.service',
    'Wants=leasehold-control.service',
    ...[1, 2, 3, 4, 5, 6, 7, 8].map((n) => `Wants=leasehold-runner@lead_verify@${n}.service`),
    'Wants=leasehold-runner@blog@1.service',
  ])
  const runner = contentOf(files, `${units}/leasehold-runner@.service.d/10-leasehold.conf`)
  expect(runner).toContain('User=leasehold\n')
  expect(runner).toContain('WatchdogSec=45000ms')
  expect(runner).toContain('LoadCredential=ANTHROPIC_API_KEY:/etc/leasehold/credentials/ANTHROPIC_API_KEY')
  expect(runner).not.toContain('SMTP_PASSWORD')
  expect(runner).toMatch(
    /^ExecStart=\S+node .*runner\S+main.ts --config \S+leasehold.config.json --slot %i$/m,
  )
  const monitor = contentOf(files, `${units}/leasehold-heartbeat-monitor.service.d/10-leasehold.conf`)
  expect(monitor).toContain('LoadCredential=SMTP_PASSWORD:')
  expect(monitor).not.toContain('ANTHROPIC_API_KEY')
  expect(contentOf(files, '/etc/leasehold/leasehold.env')).toContain(
    String.raw`GREETING="a \"good\" 100% \$morning"`,
  )
  expect(contentOf(files, '/etc/leasehold/worker-lead_verify.env')).toContain('REGION=eu')
  const ofSlot = contentOf(
    files,
    `${units}/leasehold-runner@lead_verify@3.service.d/20-leasehold-worker.conf`,
  )
  expect(ofSlot).toContain('EnvironmentFile=/etc/leasehold/worker-lead_verify.env')
  expect(files.some(({ path }) => path.includes('fire@'))).toBe(false)
})

test('every secret that Leasehold knows goes to who uses it, and to nobody else', async () => {
  const secrets = [...secretNames, 'VERIFY_KEY']
  writeFileSync(manifestFile, JSON.stringify({ ...declared, service: { secrets } }))
  const files = await printed()
  const given = (unit: string): string[] =>
    files
      .filter(({ path }) => path.startsWith(`/etc/systemd/system/${unit}.service`))
      .flatMap(({ content }) => [...content.matchAll(/^LoadCredential=(\w+):/gm)].map(([, name]) => name!))
      .toSorted()
  expect(given('leasehold-runner@')).toEqual(['ANTHROPIC_API_KEY', 'DATABASE_URL', 'VERIFY_KEY'])
  expect(given('leasehold-scheduler')).toEqual(['DATABASE_URL'])
  expect(given('leasehold-control')).toEqual(['DATABASE_URL', 'LEASEHOLD_METRICS_TOKEN'])
  expect(given('leasehold-heartbeat-monitor')).toEqual([
    'DATABASE_URL',
    'LEASEHOLD_PING_URL',
    'LEASEHOLD_WEBHOOK_SECRET',
    'LEASEHOLD_WEBHOOK_URL',
    'SMTP_PASSWORD',
    'TELEGRAM_BOT_TOKEN',
  ])
  // Whoever adds one to the settings decides here whose it is. TRIGGER_SECRET is for a part of the control service that is to come.
  const homes = ['leasehold-runner@', 'leasehold-heartbeat-monitor', 'leasehold-control'].flatMap(given)
  expect(secrets.filter((secret) => !homes.includes(secret))).toEqual(['TRIGGER_SECRET'])
})

test('a service with a login of its own gets that one, and the others the one of all', async () => {
  const service = { ...declared.service, ownLogins: ['heartbeat-monitor', 'fire'] }
  writeFileSync(manifestFile, JSON.stringify({ ...declared, service }))
  const files = await printed('--timers')
  const given = (name: string): string[] =>
    contentOf(files, `/etc/systemd/system/leasehold-${name}.service.d/10-leasehold.conf`)
      .split('\n')
      .filter((line) => line.startsWith('LoadCredential='))
  const folder = '/etc/leasehold/credentials'
  expect(given('heartbeat-monitor')).toEqual([
    'LoadCredential=',
    `LoadCredential=DATABASE_URL:${folder}/DATABASE_URL.heartbeat-monitor`,
    `LoadCredential=SMTP_PASSWORD:${folder}/SMTP_PASSWORD`,
  ])
  expect(given('fire@')).toEqual([
    'LoadCredential=',
    `LoadCredential=DATABASE_URL:${folder}/DATABASE_URL.fire`,
  ])
  expect(given('scheduler')).toEqual([])
  expect(given('runner@')).toEqual([`LoadCredential=ANTHROPIC_API_KEY:${folder}/ANTHROPIC_API_KEY`])
  writeFileSync(
    manifestFile,
    JSON.stringify({ ...declared, service: { ...service, ownLogins: ['monitor'] } }),
  )
  const { code, stderr } = await systemd('install', '--config', manifestFile, '--root', root, '--yes')
  expect([code, stderr]).toEqual([2, expect.stringContaining("service.ownLogins.0: 'monitor' is no service")])
})

test('a stop has more time than a drain takes, in the shipped unit and in every installed one', async () => {
  const settings = readFileSync(join(repository, 'packages/service/src/settings.ts'), 'utf8')
  const drainMs = Number(
    /LEASEHOLD_DRAIN_TIMEOUT_MS: .*default\(([\d_]+)\)/.exec(settings)![1]!.replaceAll('_', ''),
  )
  const shipped = readFileSync(join(systemdUnits, 'leasehold-runner@.service'), 'utf8')
  // After the drain limit: settling takes 5 s, leaving 3 s, closing 1 s, lingering 0.5 s, each at most.
  const leavingMs = 10_000
  expect(Number(/^TimeoutStopSec=(\d+)s$/m.exec(shipped)![1]) * 1_000).toBeGreaterThan(drainMs + leavingMs)
  const dropIn = contentOf(
    await printed(),
    '/etc/systemd/system/leasehold-runner@.service.d/10-leasehold.conf',
  )
  expect(Number(/^TimeoutStopSec=(\d+)ms$/m.exec(dropIn)![1])).toBeGreaterThan(300_000 + leavingMs)
})

test('everything that an installation starts ends with its target, firings too', async () => {
  const files = await printed('--timers')
  const units = files.filter(({ path }) => /^\/etc\/systemd\/system\/[^/]+\.(service|timer)$/.test(path))
  expect(units.length).toBe(6)
  for (const { path, content } of units) expect(content, path).toContain('\nPartOf=leasehold.target\n')
})

test('timers say when schedules fire, in their zones; what only a scheduler can fire is refused', async () => {
  const files = await printed('--timers')
  const of = (name: string): string =>
    contentOf(files, `/etc/systemd/system/leasehold-fire@${name}.timer.d/10-leasehold.conf`)
  expect(of('daily_blog')).toMatch(
    /OnCalendar=\nOnCalendar=Mon,Tue,Wed,Thu,Fri \*-\*-\* 06:00:00 Europe\/London\n/,
  )
  expect(of('refresh')).toMatch(/OnCalendar=\*:0\/15:00 UTC\nPersistent=no/)
  expect(of('asleep')).toMatch(/^no /)
  expect(toCalendar({ cron: '0 3 1 * 1', everyMs: null, zone: 'UTC' })).toEqual({
    lines: ['*-*-01 03:00:00 UTC', 'Mon *-*-* 03:00:00 UTC'],
  })
  // As croner reads them: whatever is no bare `*` restricts, and a plus means days that are both.
  expect(toCalendar({ cron: '0 3 1 * 0-6', everyMs: null, zone: 'UTC' })).toEqual({
    lines: ['*-*-01 03:00:00 UTC', '*-*-* 03:00:00 UTC'],
  })
  expect(toCalendar({ cron: '0 3 1-7 * +MON', everyMs: null, zone: 'UTC' })).toEqual({
    lines: ['Mon *-*-01..07 03:00:00 UTC'],
  })
  expect(toCalendar({ cron: '0 3 L * *', everyMs: null, zone: 'UTC' })).toHaveProperty('problem')
  expect(toCalendar({ cron: null, everyMs: 7 * 60_000, zone: 'UTC' })).toHaveProperty('problem')
})

function limits(changes: Partial<ManifestSchedule>): string[] {
  const plain = { name: 's', stage: 'blog', cron: null, everyMs: null, zone: 'Europe/London', payload: {} }
  const rest = { catchUp: 'one', jitterMs: 0, enabled: true } as const
  return timerLimits({ ...plain, ...rest, ...changes }, new Date('2027-01-10T00:00:00Z'))
}

test('what a timer does otherwise than the scheduler is said for each schedule by its name', () => {
  expect(limits({ cron: '30 1 * * *' })).toEqual([
    'schedule s: a timer misses its firing at 2027-03-28 02:30:00 +01:00 (01:30 is skipped by the clocks that day: it fires 02:30)',
  ])
  expect(limits({ cron: '*/30 * * * *' })).toEqual([
    'schedule s: a timer misses its firing at 2027-10-31 01:00:00 +00:00 (the second of two: clocks show this time twice)',
  ])
  expect(limits({ cron: '0 6 * * *', jitterMs: 300_000 })).toEqual([
    'schedule s: a timer fires it without its jitter of 5 min',
  ])
  expect(limits({ everyMs: 420_000 })).toEqual([expect.stringContaining('no timer can fire it')])
  for (const exact of [{ cron: '0 6 * * *' }, { cron: '30 1 * * *', zone: 'UTC' }, { everyMs: 900_000 }])
    expect(limits(exact)).toEqual([])
})

test('they are said where timers are made, and by check', async () => {
  const schedules = { early: { stage: 'blog', cron: '30 1 * * *', zone: 'Europe/London' } }
  writeFileSync(manifestFile, JSON.stringify({ ...declared, schedules }))
  const said = /schedule early: a timer misses its firing at \d{4}-03-\d\d 02:30:00/
  expect((await systemd('print', '--timers', '--config', manifestFile)).stderr).toMatch(said)
  expect((await systemd('print', '--config', manifestFile)).stderr).toBe('')
  expect((await leasehold(['check', manifestFile], {})).stdout).toMatch(said)
})

test('a second installation beside the first has names of its own', async () => {
  const files = await printed('--prefix', 'leads')
  expect(files.filter(({ path }) => /\/leasehold[-.@]/.test(path.replace('10-leasehold', '').replace('20-leasehold', '')))).toEqual([]) // prettier-ignore
  const unit = contentOf(files, '/etc/systemd/system/leads-runner@.service')
  expect(unit).toContain('PartOf=leads.target')
  expect(unit).toContain('CacheDirectory=leads\n')
  expect(unit).toContain('LoadCredential=DATABASE_URL:/etc/leads/credentials/DATABASE_URL')
})

test.each<[string, object, string[], RegExp]>([
  [
    'a user who is not there',
    { service: { user: 'nobody_here', secrets: ['DATABASE_URL'] } },
    [],
    /service.user: there is no user 'nobody_here'/,
  ],
  ['root', { service: { user: 'root', secrets: ['DATABASE_URL'] } }, [], /service.user/],
  ['no DATABASE_URL', { service: {} }, [], /service.secrets: lacks DATABASE_URL/],
  ['a folder that PrivateTmp hides', {}, [], /below \/tmp, which PrivateTmp hides/],
  [
    'a schedule that systemd cannot say',
    { schedules: { odd: { stage: 'blog', every: '7 min' } } },
    ['--timers'],
    /schedules.odd: .*install without --timers/,
  ],
  ['a prefix that begins no name', {}, ['--prefix', '../x'], /--prefix/],
])(
  '%s is refused with the place and the reason, before anything is written',
  async (_what, change, args, said) => {
    writeFileSync(manifestFile, JSON.stringify({ ...declared, ...change }))
    const { code, stderr } = await systemd(
      'install',
      '--config',
      manifestFile,
      '--root',
      root,
      '--yes',
      ...args,
    )
    expect(code).toBe(2)
    expect(stderr).toMatch(said)
    expect(globSync('etc/systemd/**', { cwd: root })).toEqual([])
  },
)

test('a path that leads to a hidden folder is refused, and says where it leads', async () => {
  // Where no unit hides anything.
  const open = mkdtempSync('/dev/shm/leasehold-linked-')
  try {
    symlinkSync(folder, join(open, 'app'))
    const file = join(open, 'app/leasehold.config.json')
    const installation = describeInstallation(await readManifest(file), {
      prefix: 'leasehold',
      root: '/',
      timers: false,
      node: undefined,
    })
    const problems = impossibleIn(installation).filter(({ name }) => name === 'the manifest')
    expect(problems).toEqual([
      {
        name: 'the manifest',
        problem: `${file} leads to ${manifestFile}, below /tmp, which PrivateTmp hides from services: install below /opt or /srv`,
      },
    ])
  } finally {
    rmSync(open, { recursive: true })
  }
})

test('what ends with an error of its own or is killed before it is ready is back after a pause, what was killed at work at once', async () => {
  const files = await printed()
  const lines = ['runner@', 'heartbeat-monitor', 'scheduler', 'control'].map((name) => {
    const unit = contentOf(files, `/etc/systemd/system/leasehold-${name}.service`)
    expect(unit).toContain('\nStartLimitIntervalSec=0\n')
    expect(unit).not.toMatch(/^RestartSteps/m)
    return /^ExecStopPost=-\/bin\/sh -c '(.*)'$/m.exec(unit)?.[1]
  })
  expect(new Set(lines).size).toBe(1)
  const wasReady = mkdtempSync(join(folder, 'ready-'))
  writeFileSync(join(wasReady, 'ready'), '')
  const pauses = (code: string, status: string, runtime: string): boolean => {
    const script = `sleep() { echo "slept $1"; }\n${lines[0]!.replaceAll('$$', '$')}`
    const env = { EXIT_CODE: code, EXIT_STATUS: status, RUNTIME_DIRECTORY: runtime }
    return spawnSync('sh', ['-c', script], { encoding: 'utf8', env }).stdout === 'slept 5\n'
  }
  const ends = [['exited', '0'], ['exited', '1'], ['exited', '2'], ['exited', '5'], ['exited', '203'], ['exited', '243'], ['killed', 'KILL'], ['dumped', 'ABRT']] as const // prettier-ignore
  const pausing = (runtime: string): string[] =>
    ends.filter(([code, status]) => pauses(code, status, runtime)).map(([, status]) => status)
  expect(pausing(wasReady)).toEqual(['1', '203', '243'])
  expect(pausing(folder)).toEqual(['1', '203', '243', 'KILL', 'ABRT'])
})

// Elsewhere there is nobody to ask.
test.runIf(spawnSync('systemd-analyze', ['--version']).status === 0)(
  'systemd has nothing to say about the units, and finds them safe',
  async () => {
    const shipped = globSync('*', { cwd: systemdUnits }).map((name) => join(systemdUnits, name))
    const verified = spawnSync('systemd-analyze', ['verify', '--man=no', ...shipped], { encoding: 'utf8' })
    // The programs themselves are where an installation puts them.
    const said = verified.stderr.split('\n').filter((line) => line !== '' && !/is not executable/.test(line))
    expect(said).toEqual([])
    for (const unit of shipped.filter((name) => name.endsWith('.service'))) {
      const { status, stdout } = spawnSync('systemd-analyze', ['security', '--offline=yes', '--threshold=25', unit], { encoding: 'utf8' }) // prettier-ignore
      expect(status, stdout.split('\n').at(-2)).toBe(0)
    }
    for (const schedule of [
      { cron: '*/5 0-6,22 1,15 jan-mar *', everyMs: null, zone: 'Australia/Lord_Howe' },
      { cron: null, everyMs: 900_000, zone: 'UTC' },
    ]) {
      // prettier-ignore
      const calendar = toCalendar(schedule)
      if ('problem' in calendar) throw new Error(calendar.problem)
      const { status, stderr } = spawnSync('systemd-analyze', ['calendar', ...calendar.lines], {
        encoding: 'utf8',
      })
      expect(status, stderr).toBe(0)
    }
  },
)
