/**
 * An example: the clock of a newsletter. Seven steps, Tuesday to Saturday, in UTC; whatever number of schedulers runs, each
 * firing happens once. The program behind the steps is the made-up one of pipelines/factory.
 *
 * `npx leasehold check docs/examples/newsletter.config.ts` shows the next firings.
 */
import { defineManifest } from '@leasehold/manifest'

/** Step, minute and hour, lane (8 high, 5 default, 2 low). */
const steps = [
  ['pre-filter', '0 2', 5],
  ['slot-selection', '15 2', 8],
  ['decoration', '25 2', 5],
  ['images', '30 2', 2],
  ['html-compile', '0 3', 8],
  ['social-sync', '30 9', 2],
  ['send', '0 10', 8],
] as const

export default defineManifest({
  service: { user: 'leasehold', secrets: ['DATABASE_URL'] },
  stages: Object.fromEntries(
    steps.map(([step, , priority]) => [
      step,
      {
        command: `node workers/work.mjs ${step}`,
        directory: '../../pipelines/factory',
        instances: 0,
        timeout: '30 min',
        priority,
      },
    ]),
  ),
  // A worker serves all steps; adding instances is how it scales.
  workers: { newsletter: { stages: steps.map(([step]) => step), instances: 2, concurrency: 2 } },
  // Two on this machine; more on others change nothing.
  schedulers: 2,
  schedules: Object.fromEntries(
    steps.map(([step, time]) => [step, { stage: step, cron: `${time} * * TUE-SAT`, zone: 'UTC' }]),
  ),
})
