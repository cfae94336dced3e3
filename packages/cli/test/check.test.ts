/**
 * `leasehold check` as CI runs it: what it prints of a manifest that is right, and how it ends for one that is not.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { leasehold, leaseholdJson } from './leasehold.ts'

const factory = fileURLToPath(new URL('../../../pipelines/factory/leasehold.config.ts', import.meta.url))
let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'leasehold-check-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

function write(name: string, manifest: object): string {
  const file = join(folder, name)
  writeFileSync(file, JSON.stringify(manifest, null, 2))
  return file
}

test('the factory is right: its workers, its processes, and when its schedules fire in their zone', async () => {
  const { code, stdout, stderr } = await leasehold(['check', factory], {})
  expect(code, stderr).toBe(0)
  expect(stdout).toContain(
    '21 workers in 28 processes, 1 monitor, 1 scheduler, 1 control service, 5 schedules, alert policy',
  )
  expect(stdout).toMatch(/^lead-verify +8 +lead-verify +node workers\/work\.mjs lead-verify$/m)
  expect(stdout).toMatch(
    /^daily-blog +daily-blog +0 6 \* \* \* +Europe\/London( +\d{4}-\d\d-\d\d 06:00:00 \+0[01]:00){3}$/m,
  )
  expect(stdout).not.toContain('warning')
})

test('as JSON it has the same facts, with three moments for each schedule', async () => {
  const found = await leaseholdJson<{
    processes: number
    schedules: { name: string; next: { at: string }[] }[]
  }>(['check', factory], {})
  expect(found).toMatchObject({ processes: 28, monitors: 1, schedulers: 1, controls: 1, warnings: [] })
  for (const { next } of found.schedules) {
    const times = next.map(({ at }) => Date.parse(at))
    expect(times).toHaveLength(3)
    expect(times).toEqual(times.toSorted((a, b) => a - b))
  }
  const monitor = found.schedules.find(({ name }) => name === 'reply-monitor')!
  expect(Date.parse(monitor.next[1]!.at) - Date.parse(monitor.next[0]!.at)).toBe(900_000)
})

test('what limits a stage’s starts is shown, with what was not said', async () => {
  const rate = { tasks: 90, per: '1 min' }
  const file = write('rate.json', { stages: { mail: { command: 'true', limits: { rate } } } })
  const { code, stdout } = await leasehold(['check', file], {})
  expect({ code, shown: stdout.includes('mail: at most 90 per min, burst 2') }).toEqual({
    code: 0,
    shown: true,
  })
  expect(await leaseholdJson(['check', file], {})).toMatchObject({
    rates: [{ stage: 'mail', tasks: 90, perMs: 60_000, burst: 2 }],
  })
})

test('a manifest with mistakes is exit code 2, with every place, line and reason', async () => {
  const file = write('bad.json', {
    stages: { x: { comand: 'a' } },
    schedules: { s: { stage: 'y', cron: '* * *' } },
  })
  const { code, stdout, stderr } = await leasehold(['check', file], {})
  expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
  expect(stderr).toContain('stages.x.comand: is not a setting; did you mean command? (bad.json:4)')
  expect(stderr).toContain("schedules.s.cron: '* * *' has 3 fields")
  expect(stderr).toContain("schedules.s.stage: no stage 'y' is declared")
  const json = await leasehold(['check', file, '--json'], {})
  expect(json.code).toBe(2)
  expect(JSON.parse(json.stderr)).toMatchObject({ error: { code: 'CONFIG', exitCode: 2 } })
})

const session = { command: 'true' }
const short = { leaseTtl: '30 s', beatInterval: '10 s' }
test.each<[what: string, manifest: object, problem: string | null]>([
  [
    'a working beat above the beat at the top',
    { ...short, stages: { a: { ...session, env: { LEASEHOLD_WORKING_BEAT_INTERVAL_MS: '15000' } } } },
    'stages.a.env.LEASEHOLD_WORKING_BEAT_INTERVAL_MS: is 15000 ms, more than LEASEHOLD_BEAT_INTERVAL_MS (10000 ms)',
  ],
  [
    'a poll above the lease at the top',
    { ...short, service: { env: { LEASEHOLD_POLL_MS: '30000' } }, stages: { a: session } },
    'service.env.LEASEHOLD_POLL_MS: is 30000 ms, not below LEASEHOLD_LEASE_TTL_MS (30000 ms)',
  ],
  [
    'a control service for everybody without a token',
    { service: { env: { LEASEHOLD_CONTROL_HOST: '0.0.0.0' } }, stages: { a: session } },
    'service.secrets: LEASEHOLD_METRICS_TOKEN is missing',
  ],
  [
    'a working beat between the default and a longer beat at the top',
    {
      leaseTtl: '5 min',
      beatInterval: '90 s',
      stages: { a: { ...session, env: { LEASEHOLD_WORKING_BEAT_INTERVAL_MS: '45000' } } },
    },
    null,
  ],
  [
    'a control service for everybody with a token, and a pooler',
    {
      service: {
        env: { LEASEHOLD_CONTROL_HOST: '0.0.0.0', LEASEHOLD_POOLER: 'transaction' },
        secrets: ['DATABASE_URL', 'LEASEHOLD_METRICS_TOKEN'],
      },
      stages: { a: session },
    },
    null,
  ],
])('%s is judged as its process would', async (_what, manifest, problem) => {
  const { code, stderr } = await leasehold(['check', write('judged.json', manifest)], {})
  expect({ code, stderr }).toEqual(
    problem === null ? { code: 0, stderr: '' } : { code: 2, stderr: expect.stringContaining(problem) },
  )
})

test('a setting that no process knows is refused here and not at its start', async () => {
  const file = write('settings.json', {
    service: { env: { LEASEHOLD_LOG_LEVL: 'info', LEASEHOLD_POLL_MS: 'often' } },
  })
  const { code, stderr } = await leasehold(['check', file], {})
  expect(code).toBe(2)
  expect(stderr).toContain(
    'service.env.LEASEHOLD_LOG_LEVL: is not a setting; did you mean LEASEHOLD_LOG_LEVEL?',
  )
  expect(stderr).toContain('service.env.LEASEHOLD_POLL_MS: must be a whole number of milliseconds')
})

test('what is odd is a warning, and no failure', async () => {
  const file = write('odd.json', {
    stages: {
      a: { command: 'no-such-program --x' },
      b: { command: 'node workers/blog.js' },
      c: { command: 'node -e 1', directory: 'nowhere' },
      d: { module: './stages.ts' },
      e: { command: 'true', instances: 0 },
      fine: { command: 'true' },
    },
    schedules: { s: { stage: 'e', every: '1 h' } },
  })
  const { warnings } = await leaseholdJson<{ warnings: string[] }>(['check', file], {})
  expect(warnings).toEqual([
    expect.stringMatching(/^stage a: there is no program 'no-such-program' in PATH/),
    'stage b: workers/blog.js does not exist',
    expect.stringMatching(/^stage c: its working directory .*nowhere does not exist$/),
    'worker d: its module stages.ts does not exist',
    'stage e: no process here serves it, and a schedule submits to it',
  ])
})

function importing(from: string): string {
  const stages = `{ note: { command: 'true' as string } }`
  return `import { defineManifest } from '${from}'\nexport default defineManifest({ stages: ${stages} })\n`
}

test('a manifest far from any node_modules finds our packages, and nothing else that is not there', async () => {
  writeFileSync(join(folder, 'far.config.ts'), importing('@leasehold/manifest'))
  const found = await leasehold(['check', join(folder, 'far.config.ts')], {})
  expect([found.code, found.stderr]).toEqual([0, ''])
  writeFileSync(join(folder, 'farther.config.ts'), importing('@leasehold/no-such-package'))
  const missing = await leasehold(['check', join(folder, 'farther.config.ts')], {})
  expect([missing.code, missing.stderr]).toEqual([2, expect.stringContaining("'@leasehold/no-such-package'")])
})

test('without a file it looks for leasehold.config.ts, and says so when there is none', async () => {
  const { code, stderr } = await leasehold(['check'], {})
  expect(code).toBe(2)
  expect(stderr).toContain('leasehold.config.ts: cannot be read: there is no such file')
})
