/**
 * The daemons that run beside the workers: the one place where another is added.
 *
 * Everything that starts processes for a manifest reads this table: systemd's units (with a template
 * systemd/leasehold-NAME.service for each), Supervisor's and PM2's files, the keeper of a developer's machine.
 */
import type { Manifest } from '@leasehold/manifest'
import { controlEntry, monitorEntry, schedulerEntry } from './entries.ts'

export interface Daemon {
  /** `leasehold-NAME.service`, `NAME@1`. */
  readonly name: string
  readonly entry: URL
  /** How many of them a manifest wants; systemd runs one of each on a machine. */
  readonly count: (manifest: Manifest) => number
  /** Secrets that are its own: workers and other daemons are not given them. DATABASE_URL is everybody's. */
  readonly secrets: readonly string[]
}

/** In the order in which they are started and restarted. */
export const daemons: readonly Daemon[] = [
  {
    name: 'heartbeat-monitor',
    entry: monitorEntry,
    count: (manifest) => manifest.monitors,
    secrets: [
      'SMTP_PASSWORD',
      'TELEGRAM_BOT_TOKEN',
      'LEASEHOLD_WEBHOOK_URL',
      'LEASEHOLD_WEBHOOK_SECRET',
      'LEASEHOLD_PING_URL',
    ],
  },
  {
    name: 'scheduler',
    entry: schedulerEntry,
    count: (manifest) => manifest.schedulers,
    secrets: [],
  },
  {
    name: 'control',
    entry: controlEntry,
    count: (manifest) => manifest.controls,
    secrets: ['LEASEHOLD_METRICS_TOKEN'],
  },
]

/** Of a part of the control service that is still to come: no process is given them. */
export const secretsOfNobody: readonly string[] = ['TRIGGER_SECRET']
