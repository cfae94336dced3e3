/**
 * An example: four slots that run one long session each. They beat every 30 s idle and every 15 s at work, count as dead
 * after 90 s, look for work every 30 s, leave a database in trouble alone for up to 5 min, and give a session 5 min when
 * they are told to stop. The program behind them is the made-up one of pipelines/factory.
 *
 * `npx leasehold check docs/examples/agent-slots.config.ts`; what the settings mean: docs/manifest.md.
 */
import { defineManifest } from '@leasehold/manifest'

export default defineManifest({
  service: { user: 'leasehold', secrets: ['DATABASE_URL'] },
  leaseTtl: '90 s',
  beatInterval: '30 s',
  drainTimeout: '5 min',
  stages: {
    slot: {
      command: 'node workers/work.mjs session',
      directory: '../../pipelines/factory',
      instances: 4,
      timeout: '30 min',
      env: {
        LEASEHOLD_WORKING_BEAT_INTERVAL_MS: '15000',
        LEASEHOLD_POLL_MS: '30000',
        LEASEHOLD_RETRY_MS: '300000',
      },
    },
  },
})
