/**
 * The library's public face: whatever is not exported here is nobody's business.
 *
 * Other packages import from this file only, never past it.
 */
export { ConfigError, LeaseholdError, SchemaVersionError } from './errors.ts'
export type { ConfigProblem, SchemaProblem, SchemaVersionFacts } from './errors.ts'
