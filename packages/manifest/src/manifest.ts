/**
 * The manifest as programs get it: checked, complete, times in milliseconds, paths absolute.
 *
 * Invariant: whoever holds one holds names that fit everywhere (slot, systemd instance, stage) and a worker for every
 * slot. How people write it is in input.ts.
 */
import type { AlertPolicyInput, RateLimit } from '@leasehold/queue'

export interface Manifest {
  /** Absolute. */
  readonly file: string
  /** The file's folder; relative paths start here. */
  readonly directory: string
  readonly service: ManifestService
  /** One per kind of process. */
  readonly workers: readonly ManifestWorker[]
  /** Stages that are commands, with their settings; those of modules say theirs themselves. */
  readonly commands: readonly ManifestCommand[]
  readonly monitors: number
  readonly schedulers: number
  readonly controls: number
  readonly schedules: readonly ManifestSchedule[]
  readonly alerts: ManifestAlerts | null
  readonly drainTimeoutMs: number
  readonly leaseTtlMs: number
  readonly beatIntervalMs: number
  readonly wedgeLimitMs: number
}

export interface ManifestService {
  readonly user: string
  /** For every process. */
  readonly env: Readonly<Record<string, string>>
  /** Names of settings that come as credentials, never values. */
  readonly secrets: readonly string[]
  /** Services whose DATABASE_URL is the credential `DATABASE_URL.NAME`. */
  readonly ownLogins: readonly string[]
}

/** A kind of process: its name is the part of its slots before the `@`. */
export interface ManifestWorker {
  readonly name: string
  /** Where the manifest declares it: `stages.NAME` or `workers.NAME`. */
  readonly place: string
  /** `name@1` … `name@instances`. */
  readonly slots: readonly string[]
  readonly stages: readonly string[]
  /** What to import, a package or an absolute path; null: all its stages are commands. */
  readonly module: string | null
  /** The program of a worker that serves one command; those of several are in {@link Manifest.commands}. */
  readonly command: readonly string[] | null
  /** Null: the stages' own. */
  readonly concurrency: number | null
  /** Without the service's. */
  readonly env: Readonly<Record<string, string>>
  /** The working directory, absolute. */
  readonly directory: string
}

/** A stage that is a program, complete: what the manifest does not say has the library's default. */
export interface ManifestCommand {
  readonly stage: string
  readonly command: readonly string[]
  /** Without the service's. */
  readonly env: Readonly<Record<string, string>>
  /** Names of the service's secrets that the program gets. */
  readonly secrets: readonly string[]
  /** The working directory, absolute. */
  readonly directory: string
  readonly concurrency: number
  readonly timeoutMs: number
  readonly priority: number
  readonly retry: { readonly attempts: number; readonly fromMs: number; readonly toMs: number }
  readonly limits: { readonly perKey: number; readonly crashes: number; readonly rate: RateLimit | null }
}

export interface ManifestSchedule {
  readonly name: string
  readonly stage: string
  /** One of the two is given. */
  readonly cron: string | null
  readonly everyMs: number | null
  /** IANA name. */
  readonly zone: string
  readonly payload: unknown
  readonly catchUp: 'skip' | 'one' | 'all'
  readonly jitterMs: number
  readonly enabled: boolean
}

/** Who is told what, and how often: a change of the database's policy. */
export type ManifestAlerts = AlertPolicyInput
