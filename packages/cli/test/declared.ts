/**
 * The manifest whose services the tests of systemd, Supervisor and PM2 look at.
 */
export const declared = {
  service: {
    secrets: ['DATABASE_URL', 'SMTP_PASSWORD', 'ANTHROPIC_API_KEY'],
    env: { SMTP_USER: 'mailer', GREETING: 'a "good" 100% $morning' },
  },
  stages: {
    lead_verify: { module: '@leasehold/pipeline-leads', instances: 8, env: { REGION: 'eu' } },
    blog: { command: ['/bin/cat'] },
  },
  schedules: {
    daily_blog: { stage: 'blog', cron: '0 6 * * 1-5', zone: 'Europe/London' },
    refresh: { stage: 'blog', every: '15 min', catchUp: 'skip' },
    asleep: { stage: 'blog', cron: '0 1 * * *', enabled: false },
  },
  drainTimeout: '5 min',
  wedgeLimit: '45 s',
}
