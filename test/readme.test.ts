/**
 * The README tells the truth: the commands of its kill -9 tour are run as they stand there, in its order, and its error codes are the
 * ones that the code can raise.
 *
 * Where no psql is installed, a small stand-in that takes the same two options is put on the PATH.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
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
const started: ChildProcess[] = []
afterAll(async () => {
  // After a failure much still runs, also behind wrappers that pass no signal on: whole groups are told.
  const running = started.filter(({ exitCode, signalCode }) => exitCode === null && signalCode === null)
  for (const child of running) process.kill(-child.pid!, 'SIGTERM')
  await Promise.all(running.map((child) => new Promise((resolve) => child.once('close', resolve))))
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

async function until<T>(what: string, look: () => T | null | false, limitMs = 120_000): Promise<T> {
  for (const end = Date.now() + limitMs; Date.now() < end; await sleep(500)) {
    const found = look()
    if (found) return found
  }
  throw new Error(`${what} did not happen within ${limitMs / 1000} s`)
}

/** The commands of one block of the tour, in order. */
function tour(part: string): string[] {
  const block = readme.split(`<!-- tour: ${part} -->`)[1]?.match(/```sh\n([^]*?)```/)?.[1]
  if (block === undefined) throw new Error(`the tour has no part '${part}'`)
  return block.split('\n').filter((line) => line !== '' && !line.startsWith('#'))
}

/** A terminal in which a command keeps running; `said` is what it has printed. */
function terminal(program: string, args: readonly string[]): { said: () => string; process: ChildProcess } {
  let said = ''
  const child = spawn(program, args, { cwd: root, env, detached: true })
  started.push(child)
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => (said += chunk.toString()))
  return { said: () => said, process: child }
}

test('the kill -9 tour goes as the README says', { timeout: 600_000 }, async () => {
  providePsql()
  // npm itself would stand between us and the signals.
  expect(tour('first')).toEqual(['npm start'])
  const first = terminal(process.execPath, ['scripts/start.mjs'])
  const firstEnded = new Promise<number | null>((resolve) => first.process.once('exit', resolve))
  const up = (): boolean => first.said().includes('everything keeps running')
  await until('the run of the sample', () => up() || first.process.exitCode !== null, 240_000)
  expect(first.said()).toContain('everything keeps running')
  expect(first.said()).toMatch(/leads of 25 wanted \(target met\)/)

  const [work, ...noMore] = tour('second')
  expect(noMore).toEqual([])
  const worker = (): ReturnType<typeof terminal> => terminal('bash', ['-c', `exec ${work}`])
  const second = worker()
  await until('the slot', () => second.said().includes('slot taken'))

  const [insert, health, leases, kill] = tour('third') as [string, string, string, string]
  expect(tour('third')).toHaveLength(4)
  const id = /\d+/.exec(shell(insert))![0]
  await until('the claim', () => /slow@1/.test(shell(leases)))
  expect(shell(health)).toMatch(/slow@1[ |]+working[ |]+1 /)
  const held = new RegExp(`${id}[ |]+slow@1[ |]+(\\d+)`).exec(shell(leases))!
  expect(shell(kill)).toBe('')

  const again = worker()
  await until('the take-over', () => again.said().includes('slot taken over from an earlier process'))
  await until('the mail', () => /mail: Leasehold: 1 worker died/.test(first.said()))
  const mail = readFileSync(/mail: Leasehold: 1 worker died.*\((.*\.eml)\)/.exec(first.said())![1]!, 'utf8')
  expect(mail).toContain('slow@1')
  expect(mail).toMatch(new RegExp(`\\b${id}\\b`))

  const [failures, dead, status] = tour('third, afterwards') as [string, string, string]
  expect(tour('third, afterwards')).toHaveLength(3)
  await until('the end of the task', () => new RegExp(`${id}[ |]+done`).test(shell(status)), 180_000)
  expect(shell(failures)).toMatch(new RegExp(`${id}[ |]+slow_work[ |]+lost`))
  expect(shell(dead)).toMatch(new RegExp(`slow@1[ |]+${held[1]}[ |]+superseded`))
  const by = /"pid": ?(\d+)/.exec(shell(status))![1]!
  expect(by).not.toBe(held[1])
  // npx stands between: the worker itself is told.
  const againEnded = new Promise<void>((resolve) => again.process.once('exit', () => resolve()))
  process.kill(Number(by), 'SIGTERM')
  await againEnded
  first.process.kill('SIGTERM')
  expect(await firstEnded).toBe(0)
})
