/**
 * Connections alone, without the migrator and the embedded server: a door (`@leasehold/postgres/connections`) for a
 * thread that should load little.
 */
export { OutageLog, retryDelayMs, sleep } from './outage.ts'
export { openPool } from './pool.ts'
