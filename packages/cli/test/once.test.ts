/**
 * `leasehold start --once` from nothing, with an embedded server of its own, and what is left for the next command: the
 * second block of the README.
 */
import { findEmbedded } from '@leasehold/postgres'
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createTestDatabase } from '../../../test/harness/database.ts'
import { spawnProcess } from '../../../test/harness/processes.ts'
import { bin, leasehold } from './leasehold.ts'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'leasehold-once-'))
  await chmod(folder, 0o755) // as root, the server runs as somebody else, who has to pass through
})
afterAll(() => rm(folder, { recursive: true, force: true }))

test(
  'a run from nothing ends with everything stopped, and its result can be exported',
  { timeout: 240_000 },
  async () => {
    const dataDir = join(folder, 'data')
    const env = { LEASEHOLD_DATA_DIR: dataDir }
    const args = ['start', '--target', '2', '--once'] // of the sample
    const start = spawnProcess({ script: bin, args, env, cwd: folder })
    expect(await start.exit, start.output()).toEqual({ code: 0, signal: null })
    expect(await findEmbedded(dataDir)).toBeNull()

    const [, run] = /npx leasehold export (\S+)/.exec(start.output())!
    const file = join(folder, 'leads.csv')
    const exported = await leasehold(['export', run!, '--csv', '-o', file], env)
    expect(exported.code, exported.stderr).toBe(0)
    const lines = (await readFile(file, 'utf8')).trimEnd().split('\n')
    expect(lines).toHaveLength(3)
    expect(lines[0]).toContain('company')
    expect(await findEmbedded(dataDir)).toBeNull() // as it was found
  },
)

const nowhere = { DATABASE_URL: 'postgres://nobody@127.0.0.1:1/none' }

test('half of a mail configuration ends the start before anything is started', async () => {
  const env = { ...nowhere, SMTP_HOST: 'mail.example.com', EMAIL_FROM: 'queue@example.com' }
  const { code, stderr } = await leasehold(['start', '--once'], env)
  expect([code, stderr]).toEqual([2, expect.stringContaining('HEARTBEAT_MONITOR_ALERT_EMAIL')])
})

test('all that a mail configuration lacks is said at once; an address alone lacks nothing, mails are caught', async () => {
  const host = await leasehold(['start', '--once'], { ...nowhere, SMTP_HOST: 'mail.example.com' })
  expect(host.code).toBe(2)
  expect(host.stderr).toMatch(/^ +EMAIL_FROM: /m)
  expect(host.stderr).toMatch(/^ +HEARTBEAT_MONITOR_ALERT_EMAIL: /m)
  const address = { ...nowhere, SMTP_HOST: ' ', HEARTBEAT_MONITOR_ALERT_EMAIL: 'ops@example.com' }
  const { code, stderr } = await leasehold(['start', '--once'], address)
  expect([code, stderr]).toEqual([1, expect.stringContaining('ECONNREFUSED')])
})

test('to search with Claude needs a key, and says so', async () => {
  const { code, stderr } = await leasehold(['start', '--source', 'claude', '--once'], nowhere)
  expect([code, stderr]).toEqual([2, expect.stringContaining('ANTHROPIC_API_KEY')])
  expect(stderr).toMatch(/^hint: .*--source companies\.csv/m)
  const blank = await leasehold(['start', '--source', 'claude', '--once'], {
    ...nowhere,
    ANTHROPIC_API_KEY: ' ',
  })
  expect(blank.code).toBe(2)
})

test('a key that is a file of systemd’s counts as one', async () => {
  const credentials = await mkdtemp(join(folder, 'credentials-'))
  await writeFile(join(credentials, 'ANTHROPIC_API_KEY'), 'made-up')
  const { code, stderr } = await leasehold(['start', '--source', 'claude', '--once'], {
    ...nowhere,
    CREDENTIALS_DIRECTORY: credentials,
  })
  expect([code, stderr]).toEqual([1, expect.stringContaining('ECONNREFUSED')])
})

test(
  'with a key nothing is read from a directory: the run asks the model, and says what came of it',
  { timeout: 120_000 },
  async () => {
    const db = await createTestDatabase()
    const asked: string[] = []
    const provider = createServer((request, response) => {
      asked.push(request.url ?? '')
      response.writeHead(401, { 'content-type': 'application/json' })
      response.end('{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}')
    }).listen(0, '127.0.0.1')
    await once(provider, 'listening')
    const { port } = provider.address() as AddressInfo
    const env = {
      DATABASE_URL: db.url,
      ANTHROPIC_API_KEY: 'made-up',
      ANTHROPIC_BASE_URL: `http://127.0.0.1:${port}`,
    }
    const args = ['start', '--source', 'claude', '--city', 'Austin', '--target', '1', '--once']
    const start = spawnProcess({ script: bin, args, env, cwd: folder })
    expect(await start.exit, start.output()).toEqual({ code: 0, signal: null })
    expect(asked.length).toBeGreaterThan(0)
    const { rows } = await db.pool.query('select criteria from leads.runs')
    expect(rows).toEqual([{ criteria: expect.not.objectContaining({ source: expect.anything() }) }])
    provider.close()
    await db.drop()
  },
)
