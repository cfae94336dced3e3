/**
 * What the monitor needs of a log: facts first, then a constant message. pino's loggers fit.
 *
 * The monitor never opens a log of its own; main.ts hands one in, and tests hand in theirs.
 */
export interface Log {
  info(facts: object, message: string): void
  warn(facts: object, message: string): void
  error(facts: object, message: string): void
}
