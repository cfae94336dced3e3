/**
 * What a verb needs of a connection: the ability to query.
 *
 * A `pg` Client, PoolClient or Pool all fit, so that callers submit inside their own transaction. No verb opens or
 * closes connections; @leasehold/postgres does.
 */
import type { Pool, PoolClient, QueryConfig, QueryResult, QueryResultRow } from 'pg'

/** A `pg` Pool, Client or PoolClient. Given a client inside a transaction, a verb is part of that transaction. */
export interface Db {
  query<R extends QueryResultRow = QueryResultRow>(
    config: QueryConfig | (QueryConfig & { rowMode: 'array' }) | string,
    values?: unknown[],
  ): Promise<QueryResult<R>>
}

/** The connection of a transaction that is open: whatever is done with it commits or vanishes together. */
export type Tx = Db

/** A pool, of whichever copy of `pg` the caller has: `instanceof` knows its own only. A client counts no clients. */
function isPool(db: Db): db is Db & Pick<Pool, 'connect'> {
  const { connect, totalCount, idleCount } = db as Partial<Pool>
  return typeof connect === 'function' && typeof totalCount === 'number' && typeof idleCount === 'number'
}

/** Runs `work` in one transaction: a new one when given a pool, the caller's own when given a client. */
export async function inTransaction<T>(db: Db, work: (tx: Tx) => Promise<T>): Promise<T> {
  if (!isPool(db)) return work(db)
  const client: PoolClient = await db.connect()
  let broken: Error | undefined
  try {
    await client.query('begin isolation level read committed')
    const result = await work(client)
    await client.query('commit')
    return result
  } catch (error) {
    await client.query('rollback').catch((e: Error) => {
      broken = e
    })
    throw error
  } finally {
    client.release(broken)
  }
}
