/**
 * The order of `leasehold systemd restart`, and where it ends, with a program in systemctl's place that notes what it is asked.
 * What a rolling restart does to workers is test/systemd/services.test.ts, on a real systemd.
 */
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../../../test/harness/database.ts'
import { leasehold } from './leasehold.ts'

let db: TestDatabase
let folder: string
beforeAll(async () => {
  db = await createTestDatabase()
  folder = await mkdtemp(join(tmpdir(), 'leasehold-restart-'))
  const manifest = { stages: { note: { command: 'true', instances: 2 } } }
  await writeFile(join(folder, 'leasehold.config.json'), JSON.stringify(manifest))
  const systemctl = join(folder, 'systemctl')
  await writeFile(systemctl, `#!/bin/sh\necho "$@" >>${folder}/asked\ncase "$2" in *runner*) echo 'made up: no' >&2; exit 1;; esac\n`) // prettier-ignore
  await chmod(systemctl, 0o755)
})
afterAll(async () => {
  await db.drop()
  await rm(folder, { recursive: true, force: true })
})

test('monitor and scheduler come first, and the first service that does not come back ends it', async () => {
  const { code, stderr } = await leasehold(
    ['systemd', 'restart', '--config', join(folder, 'leasehold.config.json')],
    { DATABASE_URL: db.url, PATH: `${folder}:${process.env['PATH']}` },
  )
  expect(code).toBe(1)
  expect(stderr).toContain('leasehold-runner@note@1.service did not come back: made up: no; 1 more were left')
  expect(await readFile(join(folder, 'asked'), 'utf8')).toBe(
    [
      'restart leasehold-heartbeat-monitor.service',
      'restart leasehold-scheduler.service',
      'restart leasehold-runner@note@1.service',
      '',
    ].join('\n'),
  )
})
