/**
 * What a daemon says to systemd, received where systemd would receive it.
 */
import { notifier } from '@leasehold/service'
import { existsSync } from 'node:fs'
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { spawnProcess } from '../../../test/harness/processes.ts'
import { receiveDatagrams } from './datagrams.ts'

const script = 'packages/service/test/fixtures/notify.ts'
const said = ['EXTEND_TIMEOUT_USEC=30000000', 'READY=1', 'STATUS=two lines', 'WATCHDOG=1', 'STOPPING=1']

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'leasehold-notify-'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

// Only Linux has systemd; elsewhere there is nothing to talk to.
describe.runIf(process.platform === 'linux')('on Linux', () => {
  test('libsystemd delivers every message in order, line breaks taken out', async () => {
    const socket = receiveDatagrams(join(folder, 'notify.sock'))
    const child = spawnProcess({ script, env: { NOTIFY_SOCKET: socket.path, WATCHDOG_USEC: '3000000' } })
    await child.waitForLine(/^libsystemd 1500$/)
    expect(await child.exit).toEqual({ code: 0, signal: null })
    expect(socket.received()).toEqual(said)
    socket.close()
  })
})

test('without libsystemd the program systemd-notify is called', async () => {
  const log = join(folder, 'calls')
  await writeFile(join(folder, 'systemd-notify'), `#!/bin/sh\necho "$1" >> ${log}\n`)
  await chmod(join(folder, 'systemd-notify'), 0o755)
  const env = { NOTIFY_SOCKET: join(folder, 'none.sock'), PATH: `${folder}:/usr/bin:/bin` }
  const child = spawnProcess({ script, args: ['program'], env })
  expect(await child.exit).toEqual({ code: 0, signal: null })
  expect(child.output()).toBe('systemd-notify null\n')
  expect((await readFile(log, 'utf8')).trim().split('\n').sort()).toEqual([...said].sort())
})

test('outside of systemd nothing is said', async () => {
  const child = spawnProcess({ script })
  expect(await child.exit).toEqual({ code: 0, signal: null })
  expect(child.output()).toBe('none null\n')
})

test('whoever is ready leaves a file in its runtime directory, under systemd only', async () => {
  const env = { RUNTIME_DIRECTORY: `${folder}:/elsewhere` }
  const sent: string[] = []
  notifier(env).ready()
  expect(existsSync(join(folder, 'ready'))).toBe(false)
  notifier({ ...env, NOTIFY_SOCKET: join(folder, 'none.sock') }, () => (text) => sent.push(text)).ready()
  expect(existsSync(join(folder, 'ready'))).toBe(true)
  expect(sent).toEqual(['READY=1'])
})

test('a watchdog meant for another process is not fed', () => {
  expect(notifier({ WATCHDOG_USEC: '2000000', WATCHDOG_PID: '1' }).watchdogIntervalMs).toBeNull()
  expect(notifier({ WATCHDOG_USEC: '2000000', WATCHDOG_PID: String(process.pid) }).watchdogIntervalMs).toBe(
    1_000,
  )
})
