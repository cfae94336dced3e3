/**
 * What handlers are made of: a model to ask, pages to fetch, names to look up, programs to run, and the breakers that make
 * failing cheap.
 *
 * Other packages import from this file only, never past it.
 */
export { createBreaker } from './breaker.ts'
export type { Breaker, BreakerOptions } from './breaker.ts'
export { CommandFailedError, openCommands } from './command/command-stage.ts'
export type { CommandResult, Commands, CommandStageOptions } from './command/command-stage.ts'
export { findExecutable } from './command/executable.ts'
export { isReservedName, openDns } from './dns.ts'
export type { Dns, DnsOptions, HostAddress, Lookup } from './dns.ts'
export { createGate } from './gate.ts'
export type { Gate } from './gate.ts'
export { openModel } from './model.ts'
export type { Model, ModelOptions, ModelUsage, Question } from './model.ts'
export type { ClientOptions } from './model-client.ts'
export { ModelAnswerInvalidError, ModelBusyError, ModelRefusedError } from './model-errors.ts'
export type { InvalidAnswerReason } from './model-errors.ts'
export type {
  PageFound,
  PageOutcome,
  PageRefused,
  PageUnavailable,
  RefusedReason,
  UnavailableReason,
} from './page-outcome.ts'
export { isPublicAddress } from './public-address.ts'
export { fetchPage, openWeb } from './web.ts'
export type { PageOptions, Web, WebOptions } from './web.ts'
