/**
 * Kysely over schema leasehold, and the columns that are read alike everywhere.
 *
 * It only builds texts and knows no connection. Reads get it from builder() in query.ts, never by a static import.
 */
import {
  DummyDriver,
  Kysely,
  PostgresAdapter,
  PostgresIntrospector,
  PostgresQueryCompiler,
  type RawBuilder,
  sql,
} from 'kysely'
import type { DB } from './tables.ts'

export { sql }

const withoutConnection = new Kysely<DB>({
  dialect: {
    createAdapter: () => new PostgresAdapter(),
    createDriver: () => new DummyDriver(),
    createIntrospector: (db) => new PostgresIntrospector(db),
    createQueryCompiler: () => new PostgresQueryCompiler(),
  },
})

/** Builds queries over schema leasehold; cannot run them. */
export const from: Kysely<DB> = withoutConnection.withSchema('leasehold')

/** An interval column as milliseconds. */
export function milliseconds(column: string): RawBuilder<number | null> {
  return sql`extract(epoch from ${sql.ref(column)})::float8 * 1000`
}

/** A bigint count as a number: counts stay far below 2^53, ids do not and remain strings. */
export function count(column: string): RawBuilder<number> {
  return sql`${sql.ref(column)}::float8`
}
