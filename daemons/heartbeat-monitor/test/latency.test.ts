/**
 * From a kill -9 to the mail server's yes: real processes, a real mail server, the real clock.
 *
 * How long it took is printed, not judged. Judged is what the bound is made of: the lease's TTL, at most one interval until
 * the first look after its end, and one hand-over; the message is written by that look and taken at its first try.
 */
import { expect, test } from 'vitest'
import { createTestDatabase } from '../../../test/harness/database.ts'
import { MailServer } from './mail-server.ts'
import { entered, intervalS, monitor, runner, shortTtlMs as ttlMs } from './programs.ts'
import { submit } from './watching.ts'

// The owner of the schema looks; what it may write to beside that is the test's.
const noteLooks = `
  create table public.looks (at timestamptz not null);
  create function public.note_look() returns trigger language plpgsql security definer as $$
    begin insert into public.looks values (new.ticked_at); return null; end $$;
  create trigger note_look after insert or update of ticked_at on leasehold.monitors
    for each row execute function public.note_look()`

test('the first look after the lease of a killed worker has ended writes the mail, and its first try is taken', async ({
  onTestFinished,
}) => {
  const db = await createTestDatabase()
  onTestFinished(() => db.drop())
  const mail = await new MailServer().start()
  onTestFinished(() => mail.stop())
  const [{ process: watching }, worker] = await Promise.all([monitor(db, mail), runner(db, 'held@1')])
  await db.pool.query(noteLooks)
  const task = await submit(db, 'held')
  await entered(worker, task)
  // A server or a monitor that has just started gives every worker one TTL of grace.
  await expect.poll(graceIsOver).toBe(true)

  const killedAt = performance.now()
  worker.kill('SIGKILL')
  const { subject } = await mail.mail(1)
  const tookMs = Math.round(performance.now() - killedAt)
  await watching.waitForLine(/"event":"alert.sent"/)

  expect(subject).toBe('Leasehold: 1 worker died, 1 task released')
  const { rows } = await db.pool.query<{ tries: number; looks: number }>(
    // On a machine that starves, looks may come so late that they give a grace of their own.
    `select a.tries, (select count(*)::int from public.looks l where l.at < a.created_at and l.at > greatest(w.expires_at,
      (select max(g.ended_at) + w.ttl from leasehold.monitor_gaps g where g.lasted >= w.ttl / 2 and g.ended_at < a.created_at)
    )) as looks
    from leasehold.alerts a, leasehold.workers w where w.slot = 'held@1'`,
  )
  // None: it had begun when the lease ended.
  expect(rows).toEqual([{ tries: 1, looks: expect.toBeOneOf([0, 1]) }])
  console.log(
    `from kill -9 to the mail server's yes: ${tookMs} ms (TTL ${ttlMs} ms, interval ${intervalS} s; bound: their sum and 5 s)`,
  )

  async function graceIsOver(): Promise<boolean> {
    const { rows } = await db.pool.query<{ over: boolean }>(
      `select leasehold.release_grace_until($1 * interval '1 millisecond') < leasehold.clock()
        and exists (select from public.looks) as over`,
      [ttlMs],
    )
    return rows[0]!.over
  }
})
