/**
 * `leasehold systemd install` and `uninstall` on a machine of their own: what they show, write, refuse and leave behind.
 */
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { Systemd } from '../harness/systemd.ts'

// Each test boots several processes; a busy machine is no failure.
vi.setConfig({ testTimeout: 240_000 })

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
