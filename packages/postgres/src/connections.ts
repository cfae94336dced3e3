/**
 * Connections alone, without the migrator and the embedded server: a door (`@leasehold/postgres/connections`) for threads
 * that are started often and should load little.
 */
export { OutageLog, retryDelayMs, sleep } from './outage.ts'
export { openPool } from './pool.ts'
