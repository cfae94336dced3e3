/**
 * `leasehold start --once` from nothing, with an embedded server of its own, and what is left for the next command: the
 * second block of the README.
 */
import { findEmbedded } from '@leasehold/postgres'
import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
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
