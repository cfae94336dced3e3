/**
 * A manifest that cannot work, given to every command that reads one: the same refusal, with the line and the reason, before
 * anything is written or started.
 */
import { globSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { leasehold } from './leasehold.ts'

const folder = mkdtempSync(join(tmpdir(), 'leasehold-refused-'))
const file = join(folder, 'leasehold.config.ts')
const work = join(folder, 'work')
afterAll(() => rmSync(folder, { recursive: true, force: true }))

beforeAll(() => {
  mkdirSync(work)
  writeFileSync(
    file,
    `export default {
  service: { env: { LEASEHOLD_POLL_MS: 'often' } },
  stages: { note: { command: 'true' } },
  schedules: {
    nightly: { stage: 'note', cron: '0 25 * * *', zone: 'Europe/Londn' },
  },
}
`,
  )
})

const commands: readonly (readonly [command: string, ...rest: string[]])[] = [
  ['check', file],
  ['apply', file],
  ['apply', file, '--dry-run'],
  ['systemd', 'print', '--config', file],
  ['systemd', 'install', '--config', file, '--root', work, '--yes'],
  ['systemd', 'restart', '--config', file],
  ['supervisor', 'print', '--config', file],
  ['pm2', 'print', '--config', file],
  ['background', 'start', '--config', file, '--dir', work],
  ['runner', '--config', file, '--slot', 'note@1'],
]

test.each(commands.map((args) => [args.join(' ').replaceAll(folder, '…'), args] as const))(
  'leasehold %s',
  async (_shown, args) => {
    const { code, stdout, stderr } = await leasehold(args, {})
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toMatch(/schedules\.nightly\.cron: '0 25 \* \* \*' .*\(leasehold\.config\.ts:5\)/)
    expect(stderr).toMatch(
      /schedules\.nightly\.zone: 'Europe\/Londn' .*Europe\/London.*\(leasehold\.config\.ts:5\)/,
    )
    if (args[0] !== 'runner')
      expect(stderr).toContain('hint: mend the manifest and look again: npx leasehold check')
    expect(globSync('**', { cwd: work }).filter((name) => name !== '.')).toEqual([])
  },
)

test.each(
  commands
    .map((args) => [args.join(' ').replaceAll(folder, '…'), args] as const)
    .filter(([, [name]]) => name !== 'runner'),
)('a setting that no process takes, with its line: leasehold %s', async (_shown, args) => {
  const odd = join(folder, 'odd.config.ts')
  writeFileSync(odd, `export default {\n  service: {\n    env: { LEASEHOLD_POLL_MS: 'often' },\n  },\n}\n`)
  const { code, stderr } = await leasehold(
    args.map((word) => (word === file ? odd : word)),
    {},
  )
  expect(code).toBe(2)
  expect(stderr).toMatch(/service\.env\.LEASEHOLD_POLL_MS: must be a whole number .*\(odd\.config\.ts:3\)/)
})
