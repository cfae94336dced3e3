/**
 * The README tells the truth: the commands of its kill -9 tour are run as they stand there, and its error codes are the
 * ones that the code can raise.
 *
 * Where no psql is installed, a small stand-in that takes the same two options is put on the PATH.
 */
import { spawn, spawnSync } from 'node:child_process'
import { chmodSync, globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { afterAll, expect, test } from 'vitest'

const root = fileURLToPath(new URL('../', import.meta.url))
const readme = readFileSync(join(root, 'README.md'), 'utf8')

test('the error codes of the README are those of the code, in both directions', () => {
  const table = readme.split('<!-- codes -->')[1]!.split('\nFrom SQL')[0]!
  const documented = [...table.matchAll(/^\| `([A-Z_]+)`/gm)].map((match) => match[1]!)
  const raised = new Set<string>()
  for (const file of globSync('{packages,daemons,pipelines}/*/src/**/*.ts', { cwd: root })) {
    const source = readFileSync(join(root, file), 'utf8')
    for (const match of source.matchAll(/(?:super|LeaseholdError|CommandError)\(\s*'([A-Z_]+)'/g))
      raised.add(match[1]!)
  }
  expect(documented.toSorted()).toEqual([...raised].toSorted())
})

test('the settings of the README exist', async () => {
  const { settingNames } = await import('@leasehold/service')
  const named = [
    ...readme
      .split('## Configuration')[1]!
      .split('## Errors')[0]!
      .matchAll(/`([A-Z][A-Z_]+)`/g),
  ]
  const unknown = named
    .map((match) => match[1]!)
    .filter((name) => name !== 'LoadCredential' && !settingNames.includes(name))
  expect(unknown).toEqual([])
})

const folder = mkdtempSync(join(tmpdir(), 'leasehold-readme-'))
// Started as root, PostgreSQL runs as a user of its own, who has to get in.
chmodSync(folder, 0o755)
const env: NodeJS.ProcessEnv = {
  PATH: [join(root, 'node_modules/.bin'), folder, process.env['PATH']].join(delimiter),
  HOME: process.env['HOME'],
  LEASEHOLD_DATA_DIR: join(folder, 'database'),
}
const started: { kill(signal: NodeJS.Signals): boolean }[] = []
afterAll(() => {
  for (const child of started) child.kill('SIGKILL')
  rmSync(folder, { recursive: true, force: true })
})

function providePsql(): void {
  if (spawnSync('psql', ['--version']).status === 0) return
  const program = join(folder, 'psql')
  const pg = join(root, 'node_modules/pg/lib/index.js')
  writeFileSync(
    program,
    `#!${process.execPath}
const { Client } = require(${JSON.stringify(pg)})
const [url, , sql] = process.argv.slice(2)
const client = new Client(url)
client.connect().then(() => client.query({ text: sql, rowMode: 'array' })).then((result) => {
  for (const row of result.rows) console.log(row.map((v) => v instanceof Date ? v.toISOString() : v !== null && typeof v === 'object' ? JSON.stringify(v) : v).join(' | '))
  return client.end()
}).catch((error) => { console.error(error.message); process.exit(1) })
`,
  )
  chmodSync(program, 0o755)
}

function shell(command: string): string {
  const { status, stdout, stderr } = spawnSync('bash', ['-c', command], { cwd: root, env, encoding: 'utf8' })
  if (status !== 0) throw new Error(`${command}\nended with ${status}: ${stdout}${stderr}`)
  return stdout
}

async function until<T>(what: string, look: () => T | null | false, limitMs = 60_000): Promise<T> {
  for (const end = Date.now() + limitMs; Date.now() < end; await sleep(500)) {
    const found = look()
    if (found) return found
  }
  throw new Error(`${what} did not happen within ${limitMs / 1000} s`)
}

test('the kill -9 tour goes as the README says', { timeout: 180_000 }, async () => {
  providePsql()
  const tour = /<!-- tour -->\s*```sh\n([^]*?)```/.exec(readme)![1]!
  const commands = tour.split('\n').filter((line) => line !== '' && !line.startsWith('#'))
  const [health, submit, kill, dead, incidents, again] = commands as [
    string,
    string,
    string,
    string,
    string,
    string,
  ]
  expect(commands).toHaveLength(6)

  let output = ''
  const start = spawn(process.execPath, ['scripts/start.mjs', '--no-restart'], { cwd: root, env })
  started.push(start)
  for (const stream of [start.stdout, start.stderr])
    stream.on('data', (chunk: Buffer) => (output += chunk.toString()))
  const startEnded = new Promise<number | null>((resolve) => start.once('exit', resolve))
  await until(
    'the run of the sample',
    () => output.includes('everything keeps running') || start.exitCode !== null,
    120_000,
  )
  expect(output).toContain('everything keeps running')
  expect(output).toMatch(/leads of 25 wanted \(target met\)/)

  expect(shell(health)).toMatch(/contact_discovery/)
  expect(shell(kill)).toBe('')
  const id = /\d+/.exec(shell(submit))![0]
  await until('the release of the dead worker', () => /lost/.test(shell(dead)))
  expect(shell(incidents)).toMatch(/worker_dead/)
  await until('the mail', () => /mail: Leasehold: 1 worker died/.test(output))

  const ask = (sql: string) => shell(`psql "$(npx leasehold db url)" -Atc "${sql}"`).trim()
  const state = () => ask(`select state from leasehold.task_status where task_id = ${id}`)
  expect(state()).toBe('ready')
  const runner = spawn('bash', ['-c', `exec ${again}`], { cwd: root, env })
  started.push(runner)
  const runnerEnded = new Promise<void>((resolve) => runner.once('exit', () => resolve()))
  await until('the task being worked on', () => !['ready', 'running'].includes(state()))
  // npx stands between: the worker itself is told, and says how it ended.
  process.kill(
    Number(ask(`select pid from leasehold.worker_health where slot = 'contact_discovery@again'`)),
    'SIGTERM',
  )
  await runnerEnded
  expect(ask(`select end_reason from leasehold.workers where slot = 'contact_discovery@again'`)).toBe(
    'graceful-shutdown',
  )
  start.kill('SIGTERM')
  expect(await startEnded).toBe(0)
})
