/**
 * The factory floor: twenty kinds of worker in 27 processes, five jobs by the clock, one page. All of it is made up; every
 * kind runs the same small program, which stands for whatever yours are.
 *
 * `npx leasehold check pipelines/factory/leasehold.config.ts` says what it declares (docs/manifest.md).
 */
import { defineManifest } from '@leasehold/manifest'

const program = (kind: string): string => `node workers/work.mjs ${kind}`
const verifiedDomains = Array.from({ length: 15 }, (_, n) => `mail-${n + 1}.example`)

export default defineManifest({
  service: { user: 'leasehold', env: { TZ: 'UTC' }, secrets: ['DATABASE_URL'] },
  stages: {
    'lead-verify': { command: program('lead-verify'), instances: 8, concurrency: 2, limits: { perKey: 1 } },
    api: { command: program('api'), concurrency: 4, timeout: '1 min', priority: 8 },
    webhook: {
      command: program('webhook'),
      concurrency: 4,
      timeout: '1 min',
      retry: { attempts: 10, to: '10 min' },
    },
    copygen: { command: program('copygen'), timeout: '10 min' },
    'reply-classify': { command: program('reply-classify'), priority: 8 },
    enrich: { command: program('enrich'), concurrency: 3 },
    'google-search-enrich': { command: program('google-search-enrich'), retry: { from: '1 min', to: '1 h' } },
    'blog-generate': { command: program('blog-generate') },
    'content-generate': { command: program('content-generate') },
    'delivery-page': { command: program('delivery-page') },
    'website-generate': { command: program('website-generate'), timeout: '1 h' },
    'video-short': { command: program('video-short'), timeout: '2 h', limits: { crashes: 2 } },
    'video-long': { command: program('video-long'), timeout: '6 h', priority: 2, limits: { crashes: 2 } },
    'social-links': { command: program('social-links') },
    'social-finder': { command: program('social-finder') },
    'photo-finder': { command: program('photo-finder') },
    'photo-finder-team': { command: program('photo-finder-team') },
    'daily-pipeline': { command: program('daily-pipeline'), timeout: '12 h', retry: { attempts: 1 } },
    'agent-orchestrator': { command: program('agent-orchestrator') },
    'chat-bot': { command: program('chat-bot'), priority: 9 },

    'daily-blog': { command: program('daily-blog') },
    'reply-monitor': { command: program('reply-monitor'), timeout: '10 min' },
    'blacklist-check': { command: program('blacklist-check') },
    'weekly-plan': { command: program('weekly-plan') },
    'data-refresh': { command: program('data-refresh'), timeout: '6 h' },
  },
  workers: {
    // What the clock starts is rare: one process for all five.
    clockwork: {
      stages: ['daily-blog', 'reply-monitor', 'blacklist-check', 'weekly-plan', 'data-refresh'],
      concurrency: 2,
    },
  },
  schedules: {
    'daily-blog': { stage: 'daily-blog', cron: '0 6 * * *', zone: 'Europe/London' },
    'reply-monitor': { stage: 'reply-monitor', every: '15 min', catchUp: 'skip' },
    'blacklist-check': { stage: 'blacklist-check', cron: '30 4 * * *', payload: { items: verifiedDomains } },
    'weekly-plan': { stage: 'weekly-plan', cron: '0 7 * * MON', zone: 'Europe/London' },
    'data-refresh': { stage: 'data-refresh', cron: '0 3 1 * *', jitter: '10 min' },
  },
  alerts: {
    perDay: 2,
    zone: 'Europe/London',
    digestAt: '08:00',
    quiet: { from: '22:00', until: '07:00' },
    rules: { worker_dead: { minAge: '5 min' } },
  },
})
