/**
 * Defaults that somebody gave a database for other purposes, each of which would break a statement that relies on it.
 */
import { Client } from 'pg'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'

const hostile: Readonly<Record<string, string>> = {
  default_transaction_isolation: 'serializable',
  default_transaction_read_only: 'on',
  search_path: 'trap, pg_catalog',
  statement_timeout: '1000',
  idle_in_transaction_session_timeout: '300',
  lock_timeout: '10',
  row_security: 'off',
  datestyle: 'German, DMY',
  intervalstyle: 'sql_standard',
  bytea_output: 'escape',
  extra_float_digits: '-15',
  standard_conforming_strings: 'off',
  timezone: 'Australia/Lord_Howe',
}

/** An empty database with all of them, and a function in the way of everybody who leaves names unqualified. */
export async function createHostileDatabase(): Promise<TestDatabase & { readonly admin: string }> {
  const db = await createTestDatabase({ empty: true })
  await db.pool.query(`create schema trap;
    create function trap.coalesce_trap() returns integer language sql as 'select 1';
    create function trap.set_config(text, text, boolean) returns text language plpgsql as
      $$ begin raise exception 'fell into the trap'; end $$;
    create function trap.clock_timestamp() returns timestamptz language sql as $$ select timestamptz '2001-01-01' $$;
    create function trap.unnest(anyarray) returns setof anyelement language plpgsql as
      $$ begin raise exception 'fell into the trap'; end $$`)
  for (const [name, value] of Object.entries(hostile)) {
    const list = name === 'search_path' || name === 'datestyle' ? value : `'${value}'`
    await db.pool.query(`alter database ${db.name} set ${name} = ${list}`)
  }
  // A login of its own would need rights; the options of an address win over the database's defaults.
  const admin = new URL(db.url)
  const kind =
    '-c default_transaction_read_only=off -c search_path=public -c datestyle=ISO -c statement_timeout=0'
  admin.searchParams.set('options', `${kind} -c lock_timeout=0 -c standard_conforming_strings=on`)
  const probe = new Client({ connectionString: db.url })
  await probe.connect()
  const { rows } = await probe.query<{ isolation: string }>('select current_setting($1) as isolation', [
    'transaction_isolation',
  ])
  await probe.end()
  if (rows[0]?.isolation !== 'serializable') throw new Error('the defaults are not in force')
  return { ...db, admin: admin.href }
}
