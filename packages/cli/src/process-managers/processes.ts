/**
 * Every process a manifest declares, as a process manager that is not systemd starts it: words, folder, environment.
 *
 * Invariant: no secret is among them; secrets are files in CREDENTIALS_DIRECTORY, named like the setting. What stays down and
 * how long a stop may take is the same everywhere as in systemd's units.
 */
import type { Manifest } from '@leasehold/manifest'
import { processExitCodes } from '@leasehold/service'
import { daemons } from '../processes/daemons.ts'
import { runnerEntry } from '../processes/entries.ts'

/** Processes of one kind. */
export interface ProcessKind {
  /** `company_research`, `heartbeat-monitor`; processes are `NAME@1` … `NAME@count`. */
  readonly name: string
  readonly count: number
  readonly entry: URL
  /** Arguments of the program for the process of a number. */
  readonly args: (number: number | string) => readonly string[]
  readonly directory: string
  readonly env: Readonly<Record<string, string>>
  /** After a request to stop, before it is killed. */
  readonly stopTimeoutMs: number
}

/** A process that ends with one of these must stay down. */
export const finalExitCodes: readonly number[] = [processExitCodes.misconfigured, processExitCodes.slotTaken]

/** After a drain: settling, leaving, closing; and something for a machine that is busy. */
const leavingMs = 25_000
const leastStopMs = 60_000
/** How long a daemon that is no runner may take. */
export const daemonStopTimeoutMs = 30_000

/** How long a runner may take to stop before it is killed. */
export function runnerStopTimeoutMs({ drainTimeoutMs }: Pick<Manifest, 'drainTimeoutMs'>): number {
  return Math.max(leastStopMs, drainTimeoutMs + leavingMs)
}

/** What the manifest says at its top, as settings of every process. */
export function serviceSettings(manifest: Manifest): Record<string, string> {
  return {
    LEASEHOLD_LEASE_TTL_MS: String(manifest.leaseTtlMs),
    LEASEHOLD_BEAT_INTERVAL_MS: String(manifest.beatIntervalMs),
    LEASEHOLD_DRAIN_TIMEOUT_MS: String(manifest.drainTimeoutMs),
    LEASEHOLD_WEDGE_LIMIT_MS: String(manifest.wedgeLimitMs),
    ...manifest.service.env,
  }
}

/** All processes: the daemons first, then the workers as the manifest orders them. */
export function processKinds(manifest: Manifest): ProcessKind[] {
  const env = serviceSettings(manifest)
  return [
    ...daemons.map(({ name, entry, count }) => ({
      name,
      count: count(manifest),
      entry,
      args: () => [],
      directory: manifest.directory,
      env,
      stopTimeoutMs: daemonStopTimeoutMs,
    })),
    ...manifest.workers.map((worker) => ({
      name: worker.name,
      count: worker.slots.length,
      entry: runnerEntry,
      args: (number: number | string) => ['--config', manifest.file, '--slot', `${worker.name}@${number}`],
      directory: worker.module === null ? manifest.directory : worker.directory,
      env: { ...env, ...worker.env },
      stopTimeoutMs: runnerStopTimeoutMs(manifest),
    })),
  ].filter(({ count }) => count > 0)
}
