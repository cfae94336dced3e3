/**
 * A clock with a gate: a session that asks for it stops inside leasehold.clock(), after its statement took its snapshot.
 *
 * That is the moment between a look and its lock, which no other means reaches. Only test databases have a clock that can
 * be replaced; the movable clock itself is test/harness.
 */
import type { Client } from 'pg'
import type { TestDatabase } from '../../../test/harness/database.ts'
import { untilBlocked } from './scene.ts'

/** Gives this database's clock a gate, open until a session closes it for itself. */
export async function gateClock(database: TestDatabase): Promise<void> {
  await database.pool.query(`
    create or replace function leasehold.clock() returns timestamptz language plpgsql volatile parallel safe as $$
    begin
      if current_setting('test.gate', true) = 'closed' then
        perform pg_advisory_lock_shared(4711);
        perform pg_advisory_unlock_shared(4711);
      end if;
      return (select coalesce(c.stopped_at, pg_catalog.clock_timestamp()) + c.ahead from leasehold_test.clock c);
    end $$`)
}

/** Starts a query that stops at its first look at the clock; `resume` lets it go on and answers with its result. */
export async function stoppedAtTheClock<T>(
  database: TestDatabase,
  start: (session: Client) => Promise<T>,
): Promise<{ resume(): Promise<T> }> {
  const [gate, session] = [await database.client(), await database.client()]
  await gate.query('select pg_advisory_lock(4711)')
  await session.query("set test.gate = 'closed'")
  const result = start(session)
  await untilBlocked(database.pool, session, result)
  return {
    async resume() {
      await gate.query('select pg_advisory_unlock(4711)')
      return result
    },
  }
}
