/**
 * The order of `leasehold systemd restart`, and where it ends, with a program in systemctl's place that notes what it is asked.
 * What a rolling restart does to workers is test/systemd/services.test.ts, on a real systemd.
 */
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../../../test/harness/database.ts'
import { restartOneByOne } from '../src/systemd/restart.ts'
import { leasehold } from './leasehold.ts'

let db: TestDatabase
let folder: string
beforeAll(async () => {
  db = await createTestDatabase()
  folder = await mkdtemp(join(tmpdir(), 'leasehold-restart-'))
  const manifest = { stages: { note: { command: 'true', instances: 3 } } }
  await writeFile(join(folder, 'leasehold.config.json'), JSON.stringify(manifest))
  const systemctl = join(folder, 'systemctl')
  await writeFile(
    systemctl,
    `#!/bin/sh
if [ "$1" = show ]; then
  case "$3 $4" in
    *ActiveState*note@*) echo inactive ;;
    *ActiveState*) echo active ;;
    *InactiveEnterTimestamp*note@1*) echo 'Fri 2027-01-01 00:00:00 UTC' ;;
    *InactiveEnterTimestamp*) ;;
    *) echo 'waiting for the database: made up' ;;
  esac
  exit
fi
echo "$@" >>${folder}/asked
case "$2" in
  *runner*) echo 'made up: no' >&2; exit 1 ;;
  slow*) exec sleep 60 ;;
esac
`,
  )
  await chmod(systemctl, 0o755)
})
afterAll(async () => {
  await db.drop()
  await rm(folder, { recursive: true, force: true })
})

test('monitor, scheduler and control come first, what was stopped stays so, and the first that does not come back ends it', async () => {
  const { code, stdout, stderr } = await leasehold(
    ['systemd', 'restart', '--config', join(folder, 'leasehold.config.json')],
    { DATABASE_URL: db.url, PATH: `${folder}:${process.env['PATH']}` },
  )
  expect(code).toBe(1)
  expect(stdout).toContain('leasehold-runner@note@1.service is stopped, and is left so')
  expect(stderr).toContain('leasehold-runner@note@2.service did not come back: made up: no; 1 more were left')
  expect(await readFile(join(folder, 'asked'), 'utf8')).toBe(
    [
      'restart leasehold-heartbeat-monitor.service',
      'restart leasehold-scheduler.service',
      'restart leasehold-control.service',
      'restart leasehold-runner@note@2.service',
      '',
    ].join('\n'),
  )
})

test('a start that goes on, waiting for its database, is not waited for without end, and says what it waits for', async () => {
  const path = process.env['PATH']
  process.env['PATH'] = `${folder}:${path}`
  try {
    const services = [{ unit: 'slow.service', slot: null, withinMs: 200 }]
    await expect(restartOneByOne(db.pool, services, () => {})).rejects.toThrow(
      'slow.service did not come back: it is not ready after 0.2 s, and goes on (waiting for the database: made up)',
    )
  } finally {
    process.env['PATH'] = path
  }
})
