/**
 * What `leasehold supervisor` and `leasehold pm2` write for a manifest, read as Supervisor and PM2 read it.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeEach, expect, test } from 'vitest'
import { declared } from './declared.ts'
import { leasehold } from './leasehold.ts'

const folder = mkdtempSync(join(tmpdir(), 'leasehold-process-managers-'))
const manifestFile = join(folder, 'leasehold.config.json')
beforeEach(() => writeFileSync(manifestFile, JSON.stringify(declared)))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

test('the file for PM2 is a module with an app for each slot, none of which is started again for nothing', async () => {
  const { stdout } = await leasehold(['pm2', 'print', '--config', manifestFile], {})
  const file = join(folder, 'ecosystem.config.cjs')
  writeFileSync(file, stdout)
  const { apps } = createRequire(import.meta.url)(file) as { apps: Record<string, unknown>[] }
  expect(apps.map(({ name }) => name)).toEqual([
    'leasehold-heartbeat-monitor@1',
    'leasehold-scheduler@1',
    'leasehold-control@1',
    ...[1, 2, 3, 4, 5, 6, 7, 8].map((n) => `leasehold-lead_verify@${n}`),
    'leasehold-blog@1',
  ])
  expect(apps[4]).toMatchObject({
    args: ['--config', realpathSync(manifestFile), '--slot', 'lead_verify@2'],
    stop_exit_codes: [2, 5],
    kill_timeout: 325_000,
    treekill: false,
  })
  expect(stdout).toContain('pm2-logrotate')
})

/** A program's settings as Supervisor reads them: blank and ; or # begin a comment, `%%` is a percent sign. */
function readSupervisor(file: string, program: string): Record<string, string> {
  const section = new RegExp(`\\[program:${program}\\]\\n([^[]*)`).exec(file)![1]!
  return Object.fromEntries(
    section
      .split('\n')
      .map((line) => line.replace(/(^|\s)[;#].*$/, ''))
      .filter((line) => line.includes('='))
      .map((line) => line.split(/=(.*)/s).slice(0, 2))
      .map(([name, value]) => [name, value!.replaceAll('%(process_num)d', '3').replaceAll('%%', '%').trim()]),
  ) as Record<string, string>
}

/** A command's words: for what stands in single quotes, or in none, a shell splits as Supervisor does. */
function words(command: string): string[] {
  return spawnSync('sh', ['-c', `printf '%s\\n' ${command}`], { encoding: 'utf8' })
    .stdout.split('\n')
    .slice(0, -1)
}

test('the file for Supervisor has a program for each worker, with rotated logs and time to drain', async () => {
  const { stdout } = await leasehold(['supervisor', 'print', '--config', manifestFile], {})
  const values = readSupervisor(stdout, 'leasehold-lead_verify')
  expect(values).toMatchObject({
    numprocs: '8',
    process_name: 'lead_verify@3',
    stopwaitsecs: '325',
    stdout_logfile_maxbytes: '10MB',
    killasgroup: 'true',
  })
  expect(words(values['command']!).slice(-2)).toEqual(['--slot', 'lead_verify@3'])
})

test('under Supervisor a wrong configuration stays down however early it ends, and whatever else ends is started again', async () => {
  const { stdout } = await leasehold(['supervisor', 'print', '--config', manifestFile], {})
  // Before startsecs have passed, Supervisor looks at no exit code.
  const { startsecs, exitcodes, autorestart } = readSupervisor(stdout, 'leasehold-blog')
  expect({ startsecs, exitcodes, autorestart }).toEqual({
    startsecs: '0',
    exitcodes: '2,5',
    autorestart: 'unexpected',
  })
})

test('no value reaches a program otherwise than it was written because Supervisor would read it as something else', async () => {
  const env = {
    PLAIN: 'x; y',
    BOTH: `it's "good"`,
    ENDS: '"quoted"',
    COMMENT: 'one ;two #three',
    PERCENT: '100% %(x)s',
    COMMA: 'a,B="c"',
  }
  writeFileSync(manifestFile, JSON.stringify({ ...declared, service: { env } }))
  const { stdout } = await leasehold(['supervisor', 'print', '--config', manifestFile], {})
  const { command, environment } = readSupervisor(stdout, 'leasehold-blog')
  const [first, ...rest] = words(command!)
  expect(first).toBe('/usr/bin/env')
  // Values in quotes that have none inside: nothing of them means anything.
  const quoted = [...environment!.matchAll(/(\w+)="([^"']*)"(?:,|$)/g)].map(
    ([, name, value]) => `${name}=${value}`,
  )
  const given = new Set([...quoted, ...rest])
  expect(Object.entries(env).filter(([name, value]) => !given.has(`${name}=${value}`))).toEqual([])
})

test('a folder that Supervisor would cut off is refused', async () => {
  const { code, stderr } = await leasehold(
    ['supervisor', 'print', '--config', manifestFile, '--log-dir', '/var/log/a ;b'],
    {},
  )
  expect([code, stderr]).toEqual([2, expect.stringContaining('"/var/log/a ;b" cannot be written')])
})
