/**
 * Reading a manifest: what a good one becomes, and that a file which is none is refused. One with mistakes: mistakes.test.ts.
 */
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { readManifest } from '@leasehold/manifest'
import { describe, expect, test } from 'vitest'
import { problemsOf, read, write } from './scene.ts'

const fixture = fileURLToPath(new URL('./fixtures/leasehold.config.ts', import.meta.url))

describe('a good manifest', () => {
  test('is completed: slots, absolute paths, milliseconds, defaults', async () => {
    const manifest = await readManifest(fixture)
    const directory = dirname(fixture)
    expect(manifest).toMatchObject({ file: fixture, directory, monitors: 1, schedulers: 2, controls: 1 })
    expect(manifest).toMatchObject({
      drainTimeoutMs: 60_000,
      leaseTtlMs: 90_000,
      beatIntervalMs: 30_000,
      wedgeLimitMs: 60_000,
    })
    expect(manifest.service).toEqual({
      user: 'factory',
      env: { TZ: 'UTC' },
      secrets: ['DATABASE_URL', 'VERIFY_KEY'],
      ownLogins: [],
    })
    const [verify, research, newsletter, small] = manifest.workers
    expect(verify).toEqual({
      name: 'lead-verify',
      place: 'stages.lead-verify',
      slots: [1, 2, 3, 4, 5, 6, 7, 8].map((n) => `lead-verify@${n}`),
      stages: ['lead-verify'],
      module: null,
      command: ['node', 'workers/verify.js', '--fast'],
      concurrency: 2,
      env: { MODE: 'polite' },
      directory: join(directory, 'verify'),
    })
    expect(research).toMatchObject({
      module: join(directory, 'stages.ts'),
      command: null,
      slots: ['company_research@1', 'company_research@2'],
    })
    expect(newsletter).toMatchObject({
      module: '@leasehold/pipeline-leads',
      stages: ['high', 'default', 'low'],
      concurrency: null,
    })
    expect(small).toMatchObject({
      name: 'small',
      module: null,
      command: null,
      stages: ['blog', 'tidy'],
      slots: ['small@1'],
    })
    expect(manifest.workers).toHaveLength(4) // blog and tidy are served by small, and have no process of their own
    expect(manifest.commands[0]).toMatchObject({
      stage: 'lead-verify',
      secrets: ['VERIFY_KEY'],
      timeoutMs: 300_000,
      retry: { attempts: 5, fromMs: 5000, toMs: 120_000 },
      limits: { perKey: 2, crashes: 3, rate: { tasks: 60, per: 60_000, burst: 5 } },
      priority: 5,
    })
    expect(manifest.commands[1]).toMatchObject({
      command: ['sh', '-c', 'node workers/blog.js | tee blog.log'],
      timeoutMs: 1_800_000,
      retry: { attempts: 3, fromMs: 5000, toMs: 30_000 },
      limits: { perKey: 1, crashes: 3, rate: null },
    })
    expect(manifest.alerts).toEqual({
      perDay: 2,
      zone: 'Europe/London',
      quiet: { from: '22:00', until: '07:00' },
      gapMs: 300_000,
      rules: {
        worker_dead: { minAgeMs: 60_000, remindAfterMs: null, recovery: true },
        '*': { tell: 'digest' },
      },
      backlogMs: { blog: 3_600_000 },
    })
    expect(manifest.schedules).toEqual([
      { name: 'daily_blog', stage: 'blog', cron: '0 6 * * *', everyMs: null, zone: 'Europe/London', payload: { topic: 'spring' }, catchUp: 'one', jitterMs: 0, enabled: true }, // prettier-ignore
      { name: 'tidying', stage: 'tidy', cron: null, everyMs: 900_000, zone: 'UTC', payload: {}, catchUp: 'skip', jitterMs: 30_000, enabled: true }, // prettier-ignore
    ])
  })

  test('may be JSON, and may be empty', async () => {
    expect(await read({})).toMatchObject({
      workers: [],
      schedules: [],
      alerts: null,
      service: { user: 'leasehold', env: {}, secrets: [] },
    })
  })

  test('may leave a stage without a process of its own, on another machine', async () => {
    const manifest = await read({ stages: { far: { command: 'true', instances: 0 } } })
    expect(manifest.workers).toEqual([])
    expect(manifest.commands).toHaveLength(1)
  })
})

describe('a file that is no manifest', () => {
  test.each([
    [
      'is missing',
      join(tmpdir(), 'no-such-folder', 'leasehold.config.ts'),
      /leasehold\.config\.ts: cannot be read: there is no such file/,
    ],
    [
      'is of another kind',
      fileURLToPath(new URL('../package.json', import.meta.url)).replace('package.json', 'tsconfig.json'),
      /extends: is not a setting/,
    ],
  ])('%s', async (_what, file, problem) => {
    expect((await problemsOf(readManifest(file))).join('\n')).toMatch(problem)
  })
  test.each([
    ['is broken JSON', '{ "stages": ', '.json', /cannot be loaded: .*JSON/],
    ['has a mistake in its code', 'export default {', '.js', /cannot be loaded: /],
    ['throws', "throw new Error('made-up reason')", '.mjs', /cannot be loaded: made-up reason/],
    ['has no default export', 'export const stages = {}', '.mjs', /has no default export/],
    ['is no code at all', 'stages:', '.yaml', /must end in \.ts, \.js or \.json/],
    ['exports a function', 'export default () => ({})', '.mjs', /manifest: /],
    ['is null', 'null', '.json', /manifest: /],
    ['is a list', '[]', '.json', /manifest: /],
  ])('%s', async (_what, text, kind, problem) => {
    expect((await problemsOf(readManifest(write(text, kind)))).join('\n')).toMatch(problem)
  })
})
