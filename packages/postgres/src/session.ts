/**
 * The settings of a session that our statements rely on, whatever the server, the database or the login has as default.
 *
 * Invariant: a statement of ours never runs under an isolation level, a read-only default, a format or a limit that
 * somebody chose for other purposes. Set after connecting rather than at the start of the session: poolers refuse start
 * parameters they do not know. Behind a pooler in transaction mode each transaction sets them (pinned-client.ts).
 */

/** What differs between pools. Milliseconds; null leaves the login's own. */
export interface SessionLimits {
  readonly statementTimeoutMs: number
  readonly idleInTransactionTimeoutMs: number
  /** Statements of the user's own run here too: the login's search_path and limits stay. */
  readonly userStatements: boolean
}

const always: Readonly<Record<string, string>> = {
  // Answers are parsed by `pg`, which knows these forms only.
  datestyle: 'ISO, MDY',
  intervalstyle: 'postgres',
  bytea_output: 'hex',
  extra_float_digits: '1',
  // PL/pgSQL reads its literals under the caller's setting.
  standard_conforming_strings: 'on',
}

/** Transactions that nobody opens with a level of their own. */
const transactions: Readonly<Record<string, string>> = {
  default_transaction_isolation: 'read committed',
  default_transaction_read_only: 'off',
  default_transaction_deferrable: 'off',
}

/**
 * One statement that sets them, for the session or (`local`) for the transaction. Settings that this major does not have
 * are left out; the server is not asked which those are.
 */
export function pinningStatement(limits: SessionLimits, local: boolean): string {
  const settings: Record<string, string> = { ...always, ...(local ? {} : transactions) }
  if (!limits.userStatements) {
    settings['search_path'] = 'pg_catalog'
    settings['row_security'] = 'on'
    settings['lock_timeout'] = '0'
    settings['statement_timeout'] = `${limits.statementTimeoutMs}`
    settings['idle_in_transaction_session_timeout'] = `${limits.idleInTransactionTimeoutMs}`
    settings['idle_session_timeout'] = '0'
    settings['transaction_timeout'] = '0' // from PostgreSQL 17 on
  }
  const calls = Object.entries(settings).map(([name, value]) => {
    const call = `pg_catalog.set_config('${name}', '${value}', ${local})`
    return name === 'transaction_timeout'
      ? `case when pg_catalog.current_setting('${name}', true) is not null then ${call} end`
      : call
  })
  return `select ${calls.join(', ')}`
}
