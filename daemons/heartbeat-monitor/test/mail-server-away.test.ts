/**
 * Nobody listens at the mail server's port when a worker dies: the monitor's process looks on, and what it has to say waits
 * in the database, whatever becomes of the process.
 *
 * Real processes, the real clock, the real pace of tries. What else a mail server may do is delivery.test.ts.
 */
import type { AlertRecord } from '@leasehold/queue'
import { expect, test } from 'vitest'
import { createTestDatabase } from '../../../test/harness/database.ts'
import { keepablePort } from '../../../test/harness/loopback.ts'
import { spawnProcess } from '../../../test/harness/processes.ts'
import { MailServer } from './mail-server.ts'
import { addEffects, endsOf, entered, kill9, longTtlMs, monitor, moreTicks, runner } from './programs.ts'
import { alerts, submit } from './watching.ts'

// No minute between two messages, so that both deaths are written down while the mail server is away; the day's digest far off.
const policy = `
  select leasehold.set_alert_policy(jsonb_build_object('gap', '0',
    'digest_at', to_char(clock_timestamp() at time zone 'UTC' + interval '12 hours', 'HH24:MI')))`

test(
  'without a mail server deaths are released and told by channel_down; their mail waits across a kill -9 and comes once',
  { timeout: 240_000 },
  async ({ onTestFinished }) => {
    const db = await createTestDatabase()
    onTestFinished(() => db.drop())
    const mail = new MailServer()
    onTestFinished(() => mail.stop())
    mail.port = await keepablePort()
    await addEffects(db)
    await db.pool.query(policy)
    const watching = await monitor(db, mail)
    const first = await runner(db, 'held@1')
    const task = await submit(db, 'held')
    await entered(first, task)
    const second = await runner(db, 'held@2')

    await kill9(first)
    await entered(second, task)
    await watching.process.waitForLine(/"event":"alert.failed".*ECONNREFUSED/)
    await moreTicks(db, [watching], 2)
    const third = await runner(db, 'held@3', longTtlMs)
    await kill9(second)
    await entered(third, task)
    expect(await endsOf(db, task)).toEqual(['held@1 lost', 'held@2 lost'])

    await expect.poll(() => incident('channel_down')).toEqual([{ subject: 'email', open: true }])
    await expect.poll(async () => (await alerts(db)).map(({ tries }) => tries > 0)).toEqual([true, true])
    await moreTicks(db, [watching], 2)
    const lastError: unknown = expect.stringContaining('ECONNREFUSED')
    expect(await outbox()).toMatchObject([
      { channel: 'email', sentAt: null, lastError },
      { channel: 'email', sentAt: null, lastError },
    ])

    await kill9(watching.process)
    const successor = await monitor(db, mail)
    await moreTicks(db, [successor], 2)
    expect((await alerts(db)).map(({ sent }) => sent)).toEqual([false, false])
    await mail.start()
    const { subject, text = '' } = await mail.mail(1)
    expect(subject).toMatch(/^Leasehold: 2 alerts held back; last: 1 worker died, 1 task released/)
    expect(text).toMatch(/DEAD {2}held@1[\s\S]*DEAD {2}held@2/)

    await successor.process.waitForLine(/"event":"alert.sent"/)
    await moreTicks(db, [successor], 4)
    expect(mail.attempts).toBe(1)
    expect((await alerts(db)).map(({ sent }) => sent)).toEqual([true, true])
    expect(await incident('channel_down')).toEqual([{ subject: 'email', open: false }])

    third.kill('SIGUSR2')
    await expect.poll(() => endsOf(db, task)).toEqual(['held@1 lost', 'held@2 lost', 'held@3 done'])
    for (const process of [third, successor.process]) {
      process.kill('SIGTERM')
      expect(await process.exit).toEqual({ code: 0, signal: null })
    }
    expect((await db.pool.query('select * from leasehold.audit()')).rows).toEqual([])

    async function incident(kind: string): Promise<{ subject: string; open: boolean }[]> {
      const { rows } = await db.pool.query<{ subject: string; open: boolean }>(
        'select subject, resolved_at is null as open from leasehold.incidents where kind = $1 order by id',
        [kind],
      )
      return rows
    }

    /** What `leasehold alerts` shows. */
    async function outbox(): Promise<AlertRecord[]> {
      const script = 'packages/cli/bin/leasehold.mjs'
      const command = spawnProcess({ script, args: ['alerts', '--json'], env: { DATABASE_URL: db.url } })
      expect(await command.exit).toEqual({ code: 0, signal: null })
      return (JSON.parse(command.output()) as { messages: AlertRecord[] }).messages
    }
  },
)
