/**
 * Two monitors as processes beside each other: together they tell a death once, and one of them is enough.
 *
 * Real runners are killed while they hold a task, a monitor is killed as well; real mail, the real clock. What two looks at
 * the same moment may do is deaths.test.ts.
 */
import { expect, test } from 'vitest'
import { createTestDatabase } from '../../../test/harness/database.ts'
import { MailServer } from './mail-server.ts'
import { addEffects, endsOf, entered, kill9, longTtlMs, monitor, moreTicks, runner } from './programs.ts'
import { alerts, submit } from './watching.ts'

// Two messages a day, as by default. That a monitor is silent would be told half a minute later, and on a slow machine before
// the second death: here it waits for the digest, which is half a day away. And no minute between two messages.
const policy = `
  select leasehold.set_alert_policy(jsonb_build_object('gap', '0',
    'digest_at', to_char(clock_timestamp() at time zone 'UTC' + interval '12 hours', 'HH24:MI')));
  select leasehold.set_alert_rule('monitor_silent', '{"tell": "digest"}')`

test('two monitors tell a killed runner once and release its task once; when one of them is killed too, the other tells the next', async ({
  onTestFinished,
}) => {
  const db = await createTestDatabase()
  onTestFinished(() => db.drop())
  const mail = await new MailServer().start()
  onTestFinished(() => mail.stop())
  await addEffects(db)
  await db.pool.query(policy)
  const monitors = await Promise.all([monitor(db, mail), monitor(db, mail)])
  const first = await runner(db, 'held@1')
  const task = await submit(db, 'held')
  await entered(first, task)
  const second = await runner(db, 'held@2')

  await kill9(first)
  const { subject, text } = await mail.mail(1)
  expect(subject).toBe('Leasehold: 1 worker died, 1 task released')
  expect(text).toContain('DEAD  held@1')
  await entered(second, task)
  const tellers = () => monitors.filter(({ process }) => process.output().includes('"event":"alert.sent"'))
  await expect.poll(() => tellers().length).toBe(1)
  await moreTicks(db, monitors, 4)
  expect(mail.attempts).toBe(1)
  expect(await alerts(db)).toMatchObject([{ sent: true, tries: 1 }])
  expect(await endsOf(db, task)).toEqual(['held@1 lost'])
  expect(await deaths()).toEqual(['worker held@1 died'])

  // The one that has told it: whatever a teller may keep to itself is gone with it.
  const [teller] = tellers()
  const left = monitors.find((one) => one !== teller)!
  await kill9(teller!.process)
  const third = await runner(db, 'held@3', longTtlMs)
  await kill9(second)
  expect((await mail.mail(2)).text).toContain('DEAD  held@2')
  await entered(third, task)
  await left.process.waitForLine(/"event":"alert.sent"/)
  await moreTicks(db, [left], 4)
  expect(mail.attempts).toBe(2)
  expect(await alerts(db)).toMatchObject([
    { sent: true, tries: 1 },
    { sent: true, tries: 1 },
  ])
  expect(await deaths()).toEqual(['worker held@1 died', 'worker held@2 died'])

  third.kill('SIGUSR2')
  await expect.poll(() => endsOf(db, task)).toEqual(['held@1 lost', 'held@2 lost', 'held@3 done'])
  for (const process of [third, left.process]) {
    process.kill('SIGTERM')
    expect(await process.exit).toEqual({ code: 0, signal: null })
  }
  const { rows } = await db.pool.query<{ task: string }>('select task_id::text as task from public.effects')
  expect(rows).toEqual([{ task }])
  expect((await db.pool.query('select * from leasehold.audit()')).rows).toEqual([])

  async function deaths(): Promise<string[]> {
    const { rows: told } = await db.pool.query<{ summary: string }>(
      `select summary from leasehold.incidents where kind = 'worker_dead' order by id`,
    )
    return told.map(({ summary }) => summary)
  }
})
