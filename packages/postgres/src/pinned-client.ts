/**
 * A connection that runs under the settings of session.ts, also when a pooler in transaction mode stands in between.
 *
 * Invariant: behind a pooler (PgBouncer) nothing is relied on or left behind that outlives a transaction: no named
 * statement, no LISTEN, no setting. A statement that stands alone gets a transaction of its own, which begins with the
 * settings; one that begins a transaction gets them added; all of it travels in one go. A pooler is recognised by the
 * process id it makes up for its clients; an address may say `pooler=transaction` where one is not.
 */
import { Client, type ClientBase, type ClientConfig, type QueryConfig, type QueryResult } from 'pg'
import { type SessionLimits, pinningStatement } from './session.ts'

/** Whether an address itself says that it leads to a pooler in transaction mode. */
export function saysPooler(connectionString: string): boolean {
  const url = URL.canParse(connectionString) ? new URL(connectionString) : null
  return url?.searchParams.get('pooler') === 'transaction'
}

/** What `pg` has and its types leave out. */
type Inside = { readonly processID: number; pipeline: boolean }

/** A condition that holds in the session which the client was told it got, and in no other. */
export function inOwnSession(client: ClientBase): string {
  return `pg_catalog.pg_backend_pid() operator(pg_catalog.=) ${(client as unknown as Inside).processID}`
}

/** Statements that bear no transaction. */
const loner =
  /^\s*(vacuum|call|reindex|cluster|alter\s+system|(create|drop)\s+(database|(unique\s+)?index\s+concurrently))\b/i
const beginning = /^\s*(begin|start\s+transaction)\b([^;]*?);?\s*$/i
const ending = /^\s*(commit|end|abort|prepare\s+transaction|rollback(?!(\s+(work|transaction))?\s+to\b))\b/i
const listening = /^\s*(listen|unlisten)\b/i

type Callback = (error: Error | undefined, result?: QueryResult) => void
type Statement = string | QueryConfig

/** A client whose pool calls `pin` once, when it is connected and before anybody else uses it. */
export interface PinnedClient extends Client {
  pin(timeoutMs: number): Promise<void>
}

/** The class of clients of one pool. `pooled`: there is a pooler, whatever the process ids say. */
export function pinnedClientClass(
  limits: SessionLimits,
  pooled: boolean,
): new (config?: string | ClientConfig) => PinnedClient {
  const pinSession = pinningStatement(limits, false)
  const pinTransaction = pinningStatement(limits, true)
  return class extends Client {
    private pooled = pooled
    /** Between a caller's own begin and end, as they were sent. */
    private inTransaction = false

    /** Sets the session's settings, or finds that there is no session of its own. Rejects when the connection fails. */
    async pin(timeoutMs: number): Promise<void> {
      if (!this.pooled) {
        const text = `${pinSession} where ${inOwnSession(this)}`
        // `pg` knows the limit of a single query, its types do not.
        const query: QueryConfig & { query_timeout: number } = { text, query_timeout: timeoutMs }
        const { rowCount } = await super.query(query)
        this.pooled = rowCount === 0
      }
      if (this.pooled) (this as unknown as Inside).pipeline = true
    }

    // `pg` overloads this for promises, callbacks and its own query objects; all arrive here.
    // oxlint-disable-next-line typescript/no-explicit-any -- one body for all of them
    override query(statement: any, values?: any, callback?: any): any {
      if (!this.pooled || typeof statement?.submit === 'function')
        return super.query(statement, values, callback)
      const answer = this.inItsPlace(
        statement as Statement,
        typeof values === 'function' ? undefined : values,
      )
      const told: Callback | undefined = typeof values === 'function' ? values : callback
      if (told === undefined) return answer
      return void answer.then(
        (result) => told(undefined, result),
        (error: Error) => told(error),
      )
    }

    private inItsPlace(statement: Statement, values: unknown[] | undefined): Promise<QueryResult> {
      const text = typeof statement === 'string' ? statement : statement.text
      const send = (given: Statement): Promise<QueryResult> => super.query(given, values)
      if (listening.test(text)) return send('')
      const begun = beginning.exec(text)
      if (begun !== null) {
        this.inTransaction = true
        return send(`${beginStatement(begun[2] ?? '')}; ${pinTransaction}`)
      }
      const unnamed = typeof statement === 'string' ? statement : withoutName(statement)
      if (ending.test(text)) {
        this.inTransaction = false
        return send(unnamed)
      }
      return this.inTransaction || loner.test(text) ? send(unnamed) : this.alone(() => send(unnamed))
    }

    /** Answers when it is committed. All three are sent before the first is answered. */
    private async alone(send: () => Promise<QueryResult>): Promise<QueryResult> {
      const begun = super.query(`${beginStatement('')}; ${pinTransaction}`)
      const asked = send()
      const committed = super.query('commit')
      const [begin, answer, commit] = await Promise.allSettled([begun, asked, committed])
      if (begin.status === 'rejected') throw begin.reason
      if (answer.status === 'rejected') throw answer.reason
      if (commit.status === 'rejected') throw commit.reason
      return answer.value
    }
  }
}

function withoutName(statement: QueryConfig): QueryConfig {
  const unnamed = { ...statement }
  delete unnamed.name
  return unnamed
}

/** What a caller leaves open is READ COMMITTED and may write, whatever the login's defaults are. */
function beginStatement(modes: string): string {
  const isolation = /isolation/i.test(modes) ? '' : ' isolation level read committed'
  const access = /read\s+(only|write)/i.test(modes) ? '' : ' read write'
  return `begin${modes.replace(/^\s*(work|transaction)\b/i, '').trimEnd()}${isolation}${access}`
}
