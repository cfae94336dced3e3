/**
 * What the runner daemon tells its service manager of itself, received where systemd would receive it.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test, type TestContext } from 'vitest'
import { receiveDatagrams } from '../packages/service/test/datagrams.ts'
import { createTestDatabase, type TestDatabase } from './harness/database.ts'
import { spawnProcess } from './harness/processes.ts'

/** A runner, and the systemd that hears it. */
async function startHeard(db: TestDatabase, slot: string, atEnd: TestContext['onTestFinished']) {
  const folder = await mkdtemp(join(tmpdir(), 'leasehold-notify-'))
  atEnd(() => rm(folder, { recursive: true, force: true }))
  const systemd = receiveDatagrams(join(folder, 'notify.sock'))
  atEnd(() => systemd.close())
  const runner = spawnProcess({
    script: 'daemons/runner/src/main.ts',
    args: ['--module', './daemons/runner/test/fixtures/created.ts', '--slot', slot],
    env: { DATABASE_URL: db.url, LEASEHOLD_BEAT_INTERVAL_MS: '500', NOTIFY_SOCKET: systemd.path },
  })
  await runner.waitForLine(/"event":"slot.taken"/)
  return { systemd, runner }
}

// Only Linux has systemd; elsewhere there is nothing to talk to.
describe.runIf(process.platform === 'linux')('on Linux', () => {
  test('an operator who drains it makes it say that it is stopping', async ({ onTestFinished }) => {
    const db = await createTestDatabase()
    onTestFinished(() => db.drop())
    const { systemd, runner } = await startHeard(db, 'drained@1', onTestFinished)
    await expect.poll(() => systemd.received()).toContain('READY=1')
    expect(systemd.received()).not.toContain('STOPPING=1')
    await db.pool.query("select leasehold.drain_slot('drained@1')")
    expect(await runner.exit).toEqual({ code: 0, signal: null })
    await expect.poll(() => systemd.received()).toContain('STOPPING=1')
  })

  test('the status says for how long no monitor has looked, and no more once one has', async ({
    onTestFinished,
  }) => {
    const db = await createTestDatabase()
    onTestFinished(() => db.drop())
    const look = `select leasehold.monitor_beat('00000000-0000-4000-8000-000000000001', 'gull.example', 1, '1', 60000)`
    await db.pool.query(look)
    await db.pool.query(`update leasehold.monitors set ticked_at = leasehold.clock() - interval '4 minutes'`)
    const { systemd, runner } = await startHeard(db, 'alone@1', onTestFinished)
    const last = (): string | undefined =>
      systemd.received().findLast((line) => line.startsWith('STATUS=alone@1'))
    await expect
      .poll(last)
      .toMatch(/^STATUS=alone@1: 0 running, 0 settled since the start; no monitor for \d min$/)

    await db.pool.query(look)
    await expect.poll(last).toBe('STATUS=alone@1: 0 running, 0 settled since the start')
    runner.kill('SIGTERM')
    expect(await runner.exit).toEqual({ code: 0, signal: null })
  })
})
