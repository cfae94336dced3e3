/**
 * How reads with optional filters are run: Kysely builds the text (builder.ts), the caller's own connection runs it.
 *
 * Invariant: nothing here changes anything; every query reads views (or the small state tables that lead to their rows).
 * Kysely never sees a connection, so a read works inside the caller's transaction like every other verb.
 * Looking up one task is ../task.ts.
 */
import type { Compilable } from 'kysely'
import type { Pool } from 'pg'
import type { Db, Tx } from '../db.ts'
import { ValueRefusedError } from '../errors.ts'

/** See {@link builder}. */
export type Builder = typeof import('./builder.ts')

/** What queries are built with. Loaded with the first read: it is 250 files, and most processes never read. */
export function builder(): Promise<Builder> {
  return import('./builder.ts')
}

/** Runs a built query on the caller's connection. */
export async function rowsOf<Row extends object>(db: Db, query: Compilable<Row>): Promise<Row[]> {
  const { sql: text, parameters } = query.compile()
  const { rows } = await db.query<Row>(text, [...parameters])
  return rows
}

/** Whether a table or view is there and this login may read it. Asked first: a refusal would abort the caller's transaction. */
export async function mayRead(db: Db, schema: string, name: string): Promise<boolean> {
  const { rows } = await db.query<{ may: boolean }>(
    `select pg_catalog.has_schema_privilege(n.oid, 'usage') and pg_catalog.has_table_privilege(c.oid, 'select') as may
     from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where n.nspname = $1 and c.relname = $2`,
    [schema, name],
  )
  return rows[0]?.may === true
}

/** How many rows to answer with; refuses what is no whole number from 1 to 10,000. */
export function checkLimit(limit: number): number {
  if (Number.isInteger(limit) && limit >= 1 && limit <= 10_000) return limit
  throw new ValueRefusedError('22023', null, `a list is limited to 1–10000 rows, not ${limit}`)
}

/**
 * Runs several reads on one snapshot, so that a page of them fits together; nothing can be changed inside.
 *
 * Each statement may take `timeoutMs`; the server ends longer ones (SQLSTATE 57014). Takes a pool, because a snapshot
 * is a transaction of its own; works through PgBouncer in transaction mode.
 */
export async function onSnapshot<T>(pool: Pool, timeoutMs: number, read: (tx: Tx) => Promise<T>): Promise<T> {
  const client = await pool.connect()
  let broken: Error | undefined
  try {
    await client.query('begin isolation level repeatable read read only')
    await client.query("select pg_catalog.set_config('statement_timeout', $1, true)", [`${timeoutMs}ms`])
    return await read(client)
  } finally {
    await client.query('commit').catch((error: Error) => {
      broken = error
    })
    client.release(broken)
  }
}
