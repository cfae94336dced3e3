/**
 * The manifest as a person writes it: what runs, how often, how many, and who is told.
 *
 * Every part is optional and every setting has a default; lengths of time are the library's (`'5 min'`). What the
 * values may be is checked in schema.ts, what the programs get is in manifest.ts.
 */
import type { Duration, RateLimit } from '@leasehold/queue'
import type { AlertsInput } from './alerts.ts'

/** Environment variables of a process: names to texts. Never secrets, which are named in `secrets`. */
export type EnvironmentInput = Readonly<Record<string, string>>

interface ProcessInput {
  /** How many processes, each with a slot of its own: `name@1`, `name@2` …; default 1. */
  readonly instances?: number
  /** Tasks one process works on at once; default 1 for a command, the stages' own for a module. */
  readonly concurrency?: number
  readonly env?: EnvironmentInput
  /** The working directory, from the manifest's folder; default: that folder. */
  readonly directory?: string
}

/** A stage of its own: an existing program, or one stage of a module. */
export interface StageInput extends ProcessInput {
  /**
   * A program that does one task: payload on stdin, exit code 0 for done. A text is split at its spaces and nothing in
   * it is interpreted; whoever wants a shell writes `['sh', '-c', '…']`.
   */
  readonly command?: string | readonly string[]
  /** Where a stage of this name is defined: a file from the manifest's folder (`'./stages.ts'`) or a package. */
  readonly module?: string
  /** Default 1; 0 when an entry of `workers` serves the stage. */
  readonly instances?: number
  /** The most one attempt may take; default 30 min. Commands only, as all below: a module's stages say it themselves. */
  readonly timeout?: Duration
  /** 0–9, higher first; default 5. */
  readonly priority?: number
  /** Attempts in all (3), and the pause between them, doubling from `from` (5 s) to `to` (30 s). */
  readonly retry?: { readonly attempts?: number; readonly from?: Duration; readonly to?: Duration }
  /**
   * `perKey`: tasks of one concurrency key at once (1). `crashes`: worker deaths until quarantine (3). `rate`: how many start
   * in a length of time, over all processes (any number).
   */
  readonly limits?: { readonly perKey?: number; readonly crashes?: number; readonly rate?: RateLimit }
  /** Secrets of `service.secrets` that the program gets as variables; it gets no other. */
  readonly secrets?: readonly string[]
}

/** Processes that serve several stages: those of a module, or commands that are declared in `stages`. */
export interface WorkerInput extends ProcessInput {
  readonly module?: string
  readonly stages: readonly string[]
}

/** Tasks that are submitted by the clock. */
export interface ScheduleInput {
  readonly stage: string
  /** When: a cron expression of five fields in `zone`, or an interval in whole seconds. */
  readonly cron?: string
  readonly every?: Duration
  /** IANA name; default UTC. */
  readonly zone?: string
  readonly payload?: unknown
  /** What follows for firings that were missed: none, the latest (default), or each. */
  readonly catchUp?: 'skip' | 'one' | 'all'
  /** Fires up to so much later, the same for the same firing everywhere; default 0. */
  readonly jitter?: Duration
  /** Default true. */
  readonly enabled?: boolean
}

/** What `defineManifest` takes. */
export interface ManifestInput {
  readonly service?: {
    /** The user the processes run as; default `leasehold`. */
    readonly user?: string
    /** For every process. */
    readonly env?: EnvironmentInput
    /** Names of settings that come as credentials; never their values. */
    readonly secrets?: readonly string[]
    /**
     * Services that log in to the database as themselves, under systemd: `runner`, `heartbeat-monitor`, `scheduler`,
     * `control`, `fire`. Each gets the credential `DATABASE_URL.NAME` in place of `DATABASE_URL`; default none.
     */
    readonly ownLogins?: readonly string[]
  }
  readonly stages?: Readonly<Record<string, StageInput>>
  readonly workers?: Readonly<Record<string, WorkerInput>>
  readonly schedules?: Readonly<Record<string, ScheduleInput>>
  readonly alerts?: AlertsInput
  /** Heartbeat monitors and schedulers that run here; default 1 each, 0 for none. */
  readonly monitors?: number
  readonly schedulers?: number
  /** Whether a control service (metrics, health) runs here: 1, the default, or 0. One for a machine: it has a port. */
  readonly controls?: 0 | 1
  /** Lease and beat: 90 s and 30 s; a beat is at most a third of the lease. */
  readonly leaseTtl?: Duration
  readonly beatInterval?: Duration
  /** How long a stopping process waits for what it runs; default 30 s. */
  readonly drainTimeout?: Duration
  /** A main loop that stands still for so long is given up; default 60 s. */
  readonly wedgeLimit?: Duration
}

/** Gives the manifest its type; `leasehold.config.ts` exports the answer as its default. Checks nothing: readManifest does. */
export function defineManifest(input: ManifestInput): ManifestInput {
  return input
}
