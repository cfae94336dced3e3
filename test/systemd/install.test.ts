/**
 * `leasehold systemd install` and `uninstall` on a machine of their own: what they show, write, refuse and leave behind.
 */
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { Systemd } from '../harness/systemd.ts'

// Each test boots several processes; a busy machine is no failure.
vi.setConfig({ testTimeout: 600_000 })

let systemd: Systemd
beforeAll(() => {
  systemd = Systemd.start()
})
afterAll(() => systemd.stop())

const files = (): Promise<string> =>
  systemd.must(
    'cd /etc && find systemd/system leasehold -type f -name "*lease*" -o -name 50-mine.conf | sort',
  )

test('it shows the difference, asks, writes, and finds nothing to do the second time; uninstall leaves what is not its own', async () => {
  await systemd.must('mkdir -p /etc/leasehold')
  const asked = await systemd.leasehold('systemd install')
  expect([asked.code, asked.stderr]).toEqual([2, expect.stringContaining('add --yes')])
  expect(asked.stdout).toContain('+++ /etc/systemd/system/leasehold.target')
  expect(await files()).toBe('')
  const dry = await systemd.leasehold('systemd install --dry-run')
  expect([dry.code, await files()]).toEqual([0, ''])
  const listed = await systemd.leasehold('systemd install --dry-run --json')
  expect(JSON.parse(listed.stdout)).toContainEqual(
    expect.objectContaining({ path: '/etc/systemd/system/leasehold.target', before: null }),
  )
  expect(await files()).toBe('')

  const first = await systemd.leasehold('systemd install --yes')
  expect(first.code, first.stderr).toBe(0)
  expect(first.stderr).toContain('missing: /etc/leasehold/credentials/DATABASE_URL')
  expect(await systemd.show('leasehold.target', 'UnitFileState')).toBe('enabled')
  expect(await systemd.show('leasehold-runner@patient@2.service', 'LoadState')).toBe('loaded')
  expect((await systemd.leasehold('systemd install --yes')).stdout).toMatch(/^Nothing differs\./)

  const units = '/etc/systemd/system'
  await systemd.must(`sed -i 's/^User=leasehold/User=somebody/' ${units}/leasehold-runner@.service.d/10-leasehold.conf
    printf '[Service]\nCPUQuota=50%%\n' >${units}/leasehold-runner@.service.d/50-mine.conf`)
  const third = await systemd.leasehold('systemd install --yes')
  expect(third.stdout).toMatch(/-User=somebody\n\+User=leasehold/)

  const verified = await systemd.run(
    `systemd-analyze verify --man=no $(find ${units} -maxdepth 1 -type f -name "leasehold*")`,
  )
  expect(verified.stderr).toBe('')

  const removed = await systemd.leasehold('systemd uninstall --yes')
  expect(removed.code, removed.stderr).toBe(0)
  expect(await files()).toBe('systemd/system/leasehold-runner@.service.d/50-mine.conf\n')
  expect((await systemd.run('test -d /etc/leasehold/credentials')).code).toBe(0)
  expect((await systemd.run(`ls ${units}/multi-user.target.wants`)).stdout).not.toContain('leasehold')
})

test('a file of somebody else is never touched', async () => {
  const unit = '/etc/systemd/system/leasehold.target'
  await systemd.must(`printf '[Unit]\nDescription=mine\n' >${unit}`)
  const { code, stderr } = await systemd.leasehold('systemd install --yes')
  expect([code, stderr]).toEqual([
    1,
    expect.stringContaining(`${unit} exists and was not written by this command`),
  ])
  expect(await systemd.must(`cat ${unit}`)).toBe('[Unit]\nDescription=mine\n')
  expect((await systemd.run('ls /etc/systemd/system/leasehold-runner@.service')).code).not.toBe(0)
  await systemd.must(`rm ${unit}`)
})

test('programs that the service’s user cannot reach are named before anything is written', async () => {
  await systemd.must(
    'mkdir -p -m 700 /srv/closed && cp /opt/leasehold/node_modules/node/bin/node /srv/closed/node',
  )
  const { code, stderr } = await systemd.leasehold('systemd install --yes --node /srv/closed/node')
  expect([code, stderr]).toEqual([
    2,
    expect.stringContaining("node: the user 'leasehold' may not enter /srv/closed"),
  ])
})

/** A manifest of the test's own, in a folder that services can read. */
async function manifest(content: object): Promise<void> {
  const text = JSON.stringify({
    service: { secrets: ['DATABASE_URL'] },
    monitors: 0,
    schedulers: 0,
    controls: 0,
    ...content,
  })
  await systemd.must(`mkdir -p /srv/own && cat >/srv/own/leasehold.config.json <<'END'\n${text}\nEND`)
}
const own = (args: string): ReturnType<Systemd['leasehold']> =>
  systemd.leasehold(`systemd ${args} --config /srv/own/leasehold.config.json`)
const there = async (path: string): Promise<boolean> => (await systemd.run(`test -e '${path}'`)).code === 0

test('what --node names is asked which Node it is: anything else, and one that is too old, is refused', async () => {
  await systemd.must(`mkdir -p /srv/nodes && cd /srv/nodes
    printf '#!/bin/sh\necho 20.11.1\n' >old && printf '#!/bin/sh\necho hello\n' >other && chmod 755 old other`)
  for (const [program, said] of [
    ['/srv/nodes/old', 'node: /srv/nodes/old is Node 20.11.1; 22.18 or newer is needed'],
    ['/srv/nodes/other', 'node: /srv/nodes/other is no Node'],
    ['node', "node: 'node' must be an absolute path"],
  ] as const) {
    const { code, stderr } = await systemd.leasehold(`systemd install --yes --node ${program}`)
    expect([code, stderr]).toEqual([2, expect.stringContaining(said)])
  }
  expect(await files()).not.toContain('.target')
})

test('an install without its flags is as the one before it; others can be taken back', async () => {
  await manifest({
    stages: { note: { command: 'true' } },
    schedules: { nightly: { stage: 'note', cron: '0 3 * * *' } },
  })
  const node = '/srv/node24'
  await systemd.must(`cp /opt/leasehold/node_modules/node/bin/node ${node}`)
  const first = await own(`install --yes --timers --prefix own --node ${node}`)
  expect(first.code, first.stderr).toBe(0)
  expect(first.stderr).toMatch(/the services run with Node 24\.\d+\.\d+, \/srv\/node24/)
  const again = await own('install --yes')
  expect([again.code, again.stdout]).toEqual([0, expect.stringMatching(/^Nothing differs\./)])
  expect(again.stderr).toContain(`as installed before: --prefix own --timers --node ${node}`)
  expect((await own('install --yes --no-timers')).stdout).toContain(
    '--- /etc/systemd/system/own-fire@.timer\n+++ /dev/null',
  )
  expect(await there('/etc/systemd/system/own-fire@.timer')).toBe(false)
  const nothing = await systemd.leasehold('systemd uninstall --yes')
  expect([nothing.code, nothing.stderr]).toEqual([
    4,
    expect.stringContaining('there is: --prefix own, from /srv/own/leasehold.config.json'),
  ])
  expect((await systemd.leasehold('systemd uninstall --yes --prefix own')).code).toBe(0)
})

test('what is gone keeps its files while it runs, and --now stops it before they go', async () => {
  const template = '/etc/systemd/system/leasehold-runner@.service'
  const unit = 'leasehold-runner@note@1.service'
  await manifest({ stages: { note: { command: 'true' } } })
  expect((await own('install --yes')).code).toBe(0)
  // In the place of a runner, a program that tells at its stop whether its unit is still there.
  await systemd.must(`mkdir -p /run/systemd/system/${unit}.d && cat >/run/systemd/system/${unit}.d/50-test.conf <<'END'
[Service]
Type=exec
LoadCredential=
ExecStart=
ExecStart=/bin/sleep infinity
ExecStop=/bin/sh -c 'test -e ${template} && touch /var/lib/leasehold/stopped-first'
END
systemctl daemon-reload && systemctl start ${unit}`)

  await manifest({ monitors: 1 })
  // Whether a service could begin is asked before anything is stopped or written.
  await systemd.must('rm -f /etc/leasehold/credentials/DATABASE_URL')
  const refused = await own('install --yes --now')
  expect([refused.code, refused.stderr]).toEqual([
    2,
    expect.stringContaining('service.secrets.DATABASE_URL: missing: /etc/leasehold/credentials/DATABASE_URL'),
  ])
  expect([await there(template), await systemd.show(unit, 'ActiveState')]).toEqual([true, 'active'])
  await systemd.putSecret('DATABASE_URL', 'postgres://nobody@127.0.0.1:1/none')
  const kept = await own('install --yes')
  expect(kept.stderr).toContain(`no longer declared, and still running with their files: ${unit}`)
  expect([await there(template), await systemd.show(unit, 'ActiveState')]).toEqual([true, 'active'])
  expect((await own('install --yes')).stderr).toContain(unit)

  const now = await own('install --yes --now')
  expect(now.code, now.stderr).toBe(0)
  expect([await there(template), await systemd.show(unit, 'ActiveState')]).toEqual([false, 'inactive'])
  expect(await there('/var/lib/leasehold/stopped-first')).toBe(true)
  expect((await systemd.leasehold('systemd uninstall --yes')).code).toBe(0)
})

test('what systemd has loaded is what stands in the files, also when the install has nothing to change', async () => {
  await manifest({ stages: { note: { command: 'true' } } })
  await own('install --yes')
  const dropIn = '/etc/systemd/system/leasehold-runner@.service.d/10-leasehold.conf'
  const unit = 'leasehold-runner@note@1.service'
  await systemd.must(`cp -a ${dropIn} /srv/kept && sed -i 's/^User=leasehold/User=nobody/' ${dropIn}
    systemctl daemon-reload && systemctl show -p User ${unit} && systemctl start --no-block ${unit}
    cp -a /srv/kept ${dropIn}`)
  const again = await own('install --yes')
  expect(again.stdout).toMatch(/^Nothing differs\./)
  expect(await systemd.show(unit, 'User')).toBe('leasehold')
  expect(await systemd.show(unit, 'NeedDaemonReload')).toBe('no')
  await systemd.must(`systemctl stop ${unit}`)
  expect((await systemd.leasehold('systemd uninstall --yes')).code).toBe(0)
})
