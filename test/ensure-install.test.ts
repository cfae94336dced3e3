/**
 * What scripts install before they run, in a folder of the test and with a program in npm's place: once, also when several
 * ask at once, and not at all for whoever only wants to be shown something.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, expect, test } from 'vitest'

const scripts = fileURLToPath(new URL('../scripts/', import.meta.url))
let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'leasehold-install-'))
  cpSync(scripts, join(folder, 'scripts'), { recursive: true })
  const wanted = { 'node_modules/made-up': { version: '1.0.0' } }
  writeFileSync(join(folder, 'package-lock.json'), JSON.stringify({ packages: wanted }))
  // Two at once would find each other's mark, as a real install would find a folder half removed.
  writeFileSync(
    join(folder, 'npm.mjs'),
    `import { appendFileSync, existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
appendFileSync('installs', existsSync('half') ? 'disturbed\\n' : 'alone\\n')
writeFileSync('half', '')
await new Promise((done) => setTimeout(done, 300))
mkdirSync('node_modules', { recursive: true })
writeFileSync('node_modules/.package-lock.json', '${JSON.stringify({ packages: wanted })}')
rmSync('half')
`,
  )
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

const environment = (): NodeJS.ProcessEnv => ({ ...process.env, npm_execpath: join(folder, 'npm.mjs') })

function install(): ChildProcess {
  const script = `import { installPackages } from '${join(folder, 'scripts/ensure-install.mjs')}'
process.exitCode = installPackages('${folder}', 'what is made up') ? 0 : 1`
  return spawn(process.execPath, ['--input-type=module', '-e', script], { env: environment() })
}

async function ended(child: ChildProcess): Promise<string> {
  const [said, [code]] = await Promise.all([text(child.stdout!), once(child, 'close')])
  expect(code).toBe(0)
  return said
}

test('of several installs at once one installs and the others wait for it', async () => {
  const said = await Promise.all([install(), install(), install()].map(ended))
  expect(readFileSync(join(folder, 'installs'), 'utf8')).toBe('alone\n')
  expect(said.filter((one) => one.includes('Installing what is made up'))).toHaveLength(1)
  expect(existsSync(join(folder, 'node_modules.installing'))).toBe(false)
})

test('what an install left that was killed holds nobody up', async () => {
  const dead = spawnSync('true').pid
  writeFileSync(join(folder, 'node_modules.installing'), String(dead))
  await Promise.all([install(), install()].map(ended))
  expect(readFileSync(join(folder, 'installs'), 'utf8')).toBe('alone\n')
})

test('the benchmark’s help installs nothing', () => {
  mkdirSync(join(folder, 'bench'))
  for (const flag of ['--help', '--list']) {
    const { status, stderr } = spawnSync(process.execPath, [join(folder, 'scripts/bench.mjs'), flag], {
      env: environment(),
      encoding: 'utf8',
    })
    expect([status, stderr]).toEqual([1, expect.stringContaining('Nothing was installed now')])
  }
  expect(existsSync(join(folder, 'installs'))).toBe(false)
})
