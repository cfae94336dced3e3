/**
 * Connections: one way to open a pool that outlives every failure of its database.
 *
 * Invariant: no connection opened before a failover is ever used after one was seen. A demoted primary keeps its
 * sockets open and answers every write with 25006; a pool that keeps such connections stays broken for days.
 * Each connection runs under the settings of session.ts, also behind a pooler in transaction mode (pinned-client.ts).
 * Refuses to log, retry or read the environment: the caller hears of lost connections through `onError` and decides.
 */
import { ConfigError } from '@leasehold/queue/errors'
import { Client, Pool, type PoolClient, type PoolConfig } from 'pg'
import { errorCode } from './error-code.ts'
import { type PinnedClient, pinnedClientClass, saysPooler } from './pinned-client.ts'

/** How a pool is opened. Everything but the first two has a default which suits a daemon. */
export interface PoolOptions {
  readonly connectionString: string
  /** Shown in pg_stat_activity, which cuts it at 63 bytes. */
  readonly applicationName: string
  /** Most connections at once; default 10. */
  readonly max?: number
  /** Longest wait for a connection, new or from the pool; default 10 s. */
  readonly connectTimeoutMs?: number
  /** An idle connection is closed after this long; 0 keeps it; default 30 s. */
  readonly idleTimeoutMs?: number
  /** The server ends a statement after this long; default: never. */
  readonly statementTimeoutMs?: number
  /** The server ends a transaction left idle for this long; default: never. */
  readonly idleInTransactionTimeoutMs?: number
  /** Statements of the user's own run here too: search_path and limits stay as the login has them. */
  readonly userStatements?: boolean
  /** The client gives a query up, and its connection with it, after this long without an answer (a half-open link). */
  readonly queryTimeoutMs?: number
  /** Several queries of one client travel at once; each still has its own result and error. */
  readonly pipeline?: boolean
  /** Idle connections do not keep the process alive. */
  readonly allowExitOnIdle?: boolean
  /** Called once for each connection lost outside of a query's own rejection. Must not throw. */
  readonly onError?: (error: Error) => void
}

/** Answers which mean "this server is not, or no longer, the one to talk to": read-only, shutting down, link broken. */
export function isFailover(error: unknown): boolean {
  const code = errorCode(error)
  return code !== undefined && (code.startsWith('08') || /^57P0[1-4]$/.test(code) || code === '25006')
}

/**
 * Opens a pool; no connection is made until the first query.
 *
 * The pool never crashes the process over a lost connection, and when any of its connections reports a failover
 * ({@link isFailover}) or breaks, all connections of that moment are closed: idle ones at once, busy ones when they are
 * released. The next query connects anew. Throws {@link ConfigError} when the address cannot be parsed.
 */
export function openPool(options: PoolOptions): Pool {
  checkAddress(options.connectionString)
  return new FailoverPool(toPgConfig(options), options.onError ?? (() => {}))
}

/** The parser's own error carries the whole address, password included, so it is dropped on purpose. */
function checkAddress(connectionString: string): void {
  const problem = 'is not a PostgreSQL address; it looks like postgres://user:password@host:5432/database'
  if (!/^postgres(ql)?:\/\//.test(connectionString))
    throw new ConfigError([{ name: 'DATABASE_URL', problem }])
  try {
    // Nothing connects here: constructing a client only parses.
    void new Client({ connectionString })
  } catch {
    throw new ConfigError([{ name: 'DATABASE_URL', problem }])
  }
}

function toPgConfig(options: PoolOptions): PoolConfig {
  const limits = {
    statementTimeoutMs: options.statementTimeoutMs ?? 0,
    idleInTransactionTimeoutMs: options.idleInTransactionTimeoutMs ?? 0,
    userStatements: options.userStatements ?? false,
  }
  const connectTimeoutMs = options.connectTimeoutMs ?? 10_000
  return {
    connectionString: options.connectionString,
    application_name: options.applicationName,
    max: options.max ?? 10,
    connectionTimeoutMillis: connectTimeoutMs,
    idleTimeoutMillis: options.idleTimeoutMs ?? 30_000,
    keepAlive: true,
    keepAliveInitialDelayMillis: 10_000,
    ...(options.queryTimeoutMs === undefined ? {} : { query_timeout: options.queryTimeoutMs }),
    ...(options.pipeline === undefined ? {} : { pipeline: options.pipeline }),
    ...(options.allowExitOnIdle === undefined ? {} : { allowExitOnIdle: options.allowExitOnIdle }),
    Client: pinnedClientClass(limits, saysPooler(options.connectionString)),
    // A connection whose settings cannot be made is not handed out.
    verify: (client, done) => void pinThen(client as unknown as PinnedClient, connectTimeoutMs, done),
  }
}

async function pinThen(
  client: PinnedClient,
  timeoutMs: number,
  done: (error?: Error) => void,
): Promise<void> {
  try {
    await client.pin(timeoutMs)
  } catch (error) {
    return done(error as Error)
  }
  done()
}

type ConnectCallback = (
  error: Error | undefined,
  client: PoolClient | undefined,
  done: (release?: Error | boolean) => void,
) => void

class FailoverPool extends Pool {
  /** Connections made since the last failover; whatever is not in here is closed when it is released. */
  private current = new Set<PoolClient>()

  constructor(config: PoolConfig, onError: (error: Error) => void) {
    super(config)
    // Each client has its own listener below; this one only keeps an idle client's error from ending the process.
    this.on('error', () => {})
    this.on('remove', (client) => this.current.delete(client))
    this.on('connect', (client) => {
      this.current.add(client)
      // The pool listens on idle clients only: without this, losing a checked-out one would end the process.
      client.on('error', (error) => {
        this.discard(client)
        onError(error)
      })
      client.connection.on('errorMessage', (message: { code?: string }) => {
        if (isFailover(message)) this.discard(client)
      })
    })
  }

  override connect(): Promise<PoolClient>
  override connect(callback: ConnectCallback): void
  override connect(callback?: ConnectCallback): Promise<PoolClient> | void {
    if (callback === undefined) return super.connect().then((client) => this.guard(client))
    super.connect((error, client) => {
      if (client === undefined) return callback(error, undefined, () => {})
      const guarded = this.guard(client)
      let released = false
      callback(error, guarded, (e) => {
        // graphile-worker gives a listening connection that broke back twice, and nobody hears the second one's error.
        if (!released) guarded.release(e)
        released = true
      })
    })
  }

  private guard(client: PoolClient): PoolClient {
    const release = client.release.bind(client)
    client.release = (error) => release(error ?? !this.current.has(client))
    return client
  }

  private discard(witness: PoolClient): void {
    // An old connection that fails again says nothing new about those opened since.
    if (!this.current.has(witness)) return
    this.current.clear()
    for (let idle = this.idleCount; idle > 0; idle--) {
      // Checking an idle connection out and releasing it as broken is the pool's only public way to close it.
      super.connect().then(
        (client) => client.release(true),
        () => {},
      )
    }
  }
}
