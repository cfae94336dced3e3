/**
 * The services as `leasehold systemd install` writes them, on a real systemd: what happens to them, and what becomes of tasks.
 *
 * Times are printed and not asserted: how fast a machine is says nothing about the units.
 */
import { createServer, type Server, Socket } from 'node:net'
import { getTask, putSchedule, submit } from '@leasehold/queue'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../harness/database.ts'
import { keepablePort } from '../harness/loopback.ts'
import { spawnProcess } from '../harness/processes.ts'
import { Systemd } from '../harness/systemd.ts'

// Each test boots several processes; a busy machine is no failure.
vi.setConfig({ testTimeout: 600_000 })

let db: TestDatabase
let systemd: Systemd

beforeAll(async () => {
  db = await createTestDatabase()
  systemd = Systemd.start()
  await systemd.putSecret('ANTHROPIC_API_KEY', 'made-up')
  const { code, stderr } = await systemd.leasehold('systemd install --yes --timers')
  expect(code, stderr).toBe(0)
})
beforeEach(async () => {
  await systemd.putSecret('DATABASE_URL', db.url)
  await systemd.must('rm -rf /run/systemd/system/leasehold*.d; systemctl daemon-reload')
})
afterEach(() => systemd.must(`systemctl stop 'leasehold*' && systemctl reset-failed`))
afterAll(async () => {
  systemd.stop()
  await db.drop()
})

const patient = 'leasehold-runner@patient@1.service'
/** How often it was started again: once, or more often when who asks is slow. */
const again = /^[1-9]\d*$/

async function start(unit: string): Promise<number> {
  await systemd.must(`systemctl start '${unit}'`)
  return Number(await systemd.show(unit, 'MainPID'))
}

/** The worker that was the last to claim a task, whether it still holds it or not. */
async function holder(taskId: string): Promise<string | null> {
  const { rows } = await db.pool.query<{ worker_id: string }>(
    `select h.worker_id from (
       select l.worker_id, l.fence from leasehold.leases l where l.task_id = $1
       union all select a.worker_id, a.fence from leasehold.attempts a where a.task_id = $1) h
     where h.worker_id is not null order by h.fence desc limit 1`,
    [taskId],
  )
  return rows[0]?.worker_id ?? null
}

async function heldByOtherThan(taskId: string, workerId: string | null): Promise<string> {
  let found = workerId
  const look = async (): Promise<string | null> => (found = (await holder(taskId)) ?? workerId)
  await expect.poll(look, { timeout: 60_000, interval: 50 }).not.toBe(workerId)
  return found!
}

async function submitTo(stage: string, payload: object): Promise<string> {
  await db.pool.query('select leasehold.register_stage($1)', [stage])
  return submit(db.pool, stage, payload)
}

async function firingsOf(schedule: string): Promise<number> {
  const { rows } = await db.pool.query<{ n: number }>(
    'select count(task_id)::int as n from leasehold.schedule_firings where schedule = $1',
    [schedule],
  )
  return rows[0]!.n
}

function measured(what: string, sinceMs: number): void {
  console.log(`${what}: ${((performance.now() - sinceMs) / 1_000).toFixed(2)} s`)
}

test('after kill -9 a runner is started again, and takes over what its slot held', async () => {
  const pid = await start(patient)
  const id = await submitTo('slow', { ms: 3_000 })
  const first = await heldByOtherThan(id, null)
  const killedAt = performance.now()
  await systemd.must(`kill -9 ${pid}`)
  const second = await heldByOtherThan(id, first)
  measured('from kill -9 to the first claim', killedAt)
  await systemd.until(patient, 'ActiveState', 'active')
  expect(await systemd.show(patient, 'NRestarts')).toBe('1')
  await expect.poll(async () => (await getTask(db.pool, id))?.result).toBe('finished')
  const { rows } = await db.pool.query('select slot, end_reason from leasehold.workers where id = any ($1) order by slot', [[first, second]]) // prettier-ignore
  expect(rows).toEqual([
    { slot: 'patient@1', end_reason: 'superseded' },
    { slot: 'patient@1', end_reason: null },
  ])
})

test('a process that is stopped is killed by the watchdog and started again', async () => {
  const pid = await start(patient)
  const stoppedAt = performance.now()
  await systemd.must(`kill -STOP ${pid}`)
  await systemd.until(patient, 'NRestarts', again)
  measured('from SIGSTOP to the kill, with WatchdogSec=5s', stoppedAt)
  await systemd.until(patient, 'ActiveState', 'active')
  expect(await systemd.journal(patient)).toContain('Watchdog timeout (limit 5s)')
})

test('a handler that blocks the main loop is ended by the watchdog, although heartbeats go on', async () => {
  const unit = 'leasehold-runner@wedging@1.service'
  await start(unit)
  const id = await submitTo('wedge', {})
  await heldByOtherThan(id, null)
  const wedgedAt = performance.now()
  await systemd.until(unit, 'NRestarts', again)
  measured('from the claim of a task that wedges to the kill, with WatchdogSec=5s', wedgedAt)
  expect(await systemd.journal(unit)).toContain('Watchdog timeout (limit 5s)')
  await db.pool.query('select leasehold.cancel_task($1)', [id])
})

test('a stop drains: what runs is finished, nothing more is claimed, and the worker has left', async () => {
  await start(patient)
  const id = await submitTo('slow', { ms: 2_000 })
  const worker = await heldByOtherThan(id, null)
  await systemd.must(`systemctl stop ${patient}`)
  expect((await getTask(db.pool, id))?.result).toBe('finished')
  expect(await systemd.show(patient, 'Result')).toBe('success')
  expect(await systemd.show(patient, 'ExecMainStatus')).toBe('0')
  const { rows } = await db.pool.query('select end_reason from leasehold.workers where id = $1', [worker])
  expect(rows).toEqual([{ end_reason: 'graceful-shutdown' }])
})

test('booted before its database, everything waits without being given up, and works when it is there', async () => {
  const door = new Door(db.url)
  await systemd.putSecret('DATABASE_URL', await door.address())
  await systemd.must(`mkdir -p /run/systemd/system/leasehold-runner@.service.d
    printf '[Service]\nTimeoutStartSec=15s\n' >/run/systemd/system/leasehold-runner@.service.d/50-short.conf
    systemctl daemon-reload`)
  const monitor = 'leasehold-heartbeat-monitor.service'
  // A boot is not held up: nothing is ordered after the target, and the target after nothing of ours.
  expect(await systemd.show('multi-user.target', 'After')).not.toContain('leasehold')
  expect(await systemd.show('leasehold.target', 'After')).not.toContain('leasehold')
  await systemd.must(`systemctl start --no-block ${patient} ${monitor}`)
  for (const unit of [patient, monitor]) await systemd.until(unit, 'StatusText', /^waiting for the database/)
  const ageS = async (): Promise<number> => {
    const script = `echo $(( $(cut -d. -f1 /proc/uptime) - $(systemctl show --value -p InactiveExitTimestampMonotonic ${patient}) / 1000000 ))`
    return Number(await systemd.must(script))
  }
  await expect.poll(ageS, { timeout: 60_000 }).toBeGreaterThan(17)
  expect(await systemd.show(patient, 'ActiveState')).toBe('activating')
  expect(await systemd.show(patient, 'NRestarts')).toBe('0')
  await door.open()
  for (const unit of [patient, monitor]) await systemd.until(unit, 'ActiveState', 'active')
  expect(await systemd.show(patient, 'NRestarts')).toBe('0')
  await systemd.must(`systemctl stop ${patient} ${monitor}`)
  await door.close()
})

test('a runner whose slot another process took stays down, and so does one that is wrongly configured', async () => {
  await start(patient)
  const other = spawnProcess({
    script: 'daemons/runner/src/main.ts',
    args: ['--module', './test/systemd/fixtures/stages.ts', '--stage', 'slow', '--slot', 'patient@1'],
    env: { DATABASE_URL: db.url },
  })
  await systemd.until(patient, 'ActiveState', 'failed')
  expect(await systemd.show(patient, 'ExecMainStatus')).toBe('5')
  other.kill('SIGTERM')
  await other.exit

  await systemd.putSecret('DATABASE_URL', 'nonsense')
  await systemd.run(`systemctl start ${patient}`)
  await systemd.until(patient, 'ActiveState', 'failed')
  expect(await systemd.show(patient, 'ExecMainStatus')).toBe('2')
  expect(await systemd.show(patient, 'NRestarts')).toBe('0')
  expect(await systemd.journal(patient)).not.toContain('nonsense')
})

test('a start that fails is not repeated at once, but without end', async () => {
  const empty = await createTestDatabase({ empty: true })
  await systemd.putSecret('DATABASE_URL', empty.url)
  await systemd.must(`systemctl start --no-block ${patient}`)
  await systemd.until(patient, 'StatusText', /^failed: The database has no Leasehold schema.*started again$/)
  expect(await systemd.show(patient, 'NRestarts')).toBe('0')
  await systemd.until(patient, 'NRestarts', again)
  await systemd.must(`systemctl stop ${patient}`)
  await empty.drop()
})

test('what is killed before it is ready is not started again at once, but without end', async () => {
  await systemd.must(`mkdir -p /run/systemd/system/${patient}.d
    printf '[Service]\nExecStart=\nExecStart=/bin/sh -c "kill -9 $$$$"\n' >/run/systemd/system/${patient}.d/50-killed.conf
    systemctl daemon-reload; systemctl start --no-block ${patient}`)
  await systemd.until(patient, 'SubState', 'stop-post')
  expect(await systemd.show(patient, 'ExecMainStatus')).toBe('9')
  expect(await systemd.show(patient, 'NRestarts')).toBe('0')
  await systemd.until(patient, 'NRestarts', again)
  await systemd.must(`rm /run/systemd/system/${patient}.d/50-killed.conf; systemctl daemon-reload`)
  await systemd.until(patient, 'ActiveState', 'active')
})

test('a service whose credential is missing is not started again at once, and works as soon as it is there', async () => {
  await systemd.must('rm /etc/leasehold/credentials/DATABASE_URL')
  await systemd.must(`systemctl start --no-block ${patient}`)
  await systemd.until(patient, 'SubState', 'stop-post')
  expect(await systemd.show(patient, 'ExecMainStatus')).toBe('243')
  expect(await systemd.show(patient, 'NRestarts')).toBe('0')
  await systemd.putSecret('DATABASE_URL', db.url)
  await systemd.until(patient, 'ActiveState', 'active')
})

test('a service with a login of its own is given no other', async () => {
  const unit = 'leasehold-heartbeat-monitor.service'
  await systemd.putSecret('DATABASE_URL', 'nonsense')
  await systemd.putSecret('DATABASE_URL.heartbeat-monitor', db.url)
  await systemd.must(`mkdir -p /run/systemd/system/${unit}.d
    printf '[Service]\nLoadCredential=\nLoadCredential=DATABASE_URL:/etc/leasehold/credentials/DATABASE_URL.heartbeat-monitor\n' >/run/systemd/system/${unit}.d/50-login.conf
    systemctl daemon-reload`)
  await start(unit)
  expect(await systemd.show(unit, 'ActiveState')).toBe('active')
})

test('the monitor is ready after its first look and is started again after kill -9', async () => {
  const unit = 'leasehold-heartbeat-monitor.service'
  const pid = await start(unit)
  const looks = 'select from leasehold.monitors where ticked_at is not null'
  expect((await db.pool.query(looks)).rowCount).toBeGreaterThan(0)
  await systemd.must(`kill -9 ${pid}`)
  await systemd.until(unit, 'NRestarts', again)
  await systemd.until(unit, 'ActiveState', 'active')
})

test('a timer makes up for what was missed while the machine was off', async () => {
  const timer = 'leasehold-fire@hourly.timer'
  const service = 'leasehold-fire@hourly.service'
  await systemd.must(
    `mkdir -p /var/lib/systemd/timers && touch -d '2 days ago' '/var/lib/systemd/timers/stamp-${timer}'`,
  )
  expect(await systemd.show(service, 'ExecMainStartTimestamp')).toBe('')
  await db.pool.query('select leasehold.register_stage($1)', ['note'])
  await putSchedule(db.pool, { name: 'hourly', stage: 'note', cron: '0 * * * *', owner: 'sql' })
  await systemd.must(`systemctl start '${timer}'`)
  await systemd.until(service, 'ExecMainStartTimestamp', /./)
  await expect.poll(() => firingsOf('hourly'), { timeout: 60_000 }).toBe(1)
})

test('the control service is ready when it answers, says where, and does so again after kill -9', async () => {
  const unit = 'leasehold-control.service'
  const pid = await start(unit)
  const answers = async (): Promise<number> => {
    const address = /^listening on (\S+); \d+ scrapes?$/.exec(await systemd.show(unit, 'StatusText'))?.[1]
    return address === undefined
      ? 0
      : ((await fetch(`http://${address}/readyz`).catch(() => null))?.status ?? 0)
  }
  await expect.poll(answers).toBe(200)
  await systemd.must(`kill -9 ${pid}`)
  await systemd.until(unit, 'NRestarts', again)
  await systemd.until(unit, 'ActiveState', 'active')
  await expect.poll(answers).toBe(200)
  await systemd.must(`systemctl stop ${unit}`)
  expect(await systemd.show(unit, 'Result')).toBe('success')
})

test('the scheduler fires what is due, and goes on after kill -9', async () => {
  await db.pool.query('select leasehold.register_stage($1)', ['note'])
  await putSchedule(db.pool, { name: 'each_second', stage: 'note', everyMs: 1_000, owner: 'sql' })
  const unit = 'leasehold-scheduler.service'
  const pid = await start(unit)
  await expect.poll(() => firingsOf('each_second'), { timeout: 60_000 }).toBeGreaterThan(1)
  await systemd.must(`kill -9 ${pid}`)
  await systemd.until(unit, 'NRestarts', again)
  await systemd.until(unit, 'ActiveState', 'active')
  const before = await firingsOf('each_second')
  await expect.poll(() => firingsOf('each_second'), { timeout: 60_000 }).toBeGreaterThan(before)
})

test('eight runners of one stage are one line', async () => {
  await systemd.must('systemctl start leasehold-runner@lead_verify@{1..8}')
  expect((await workers('lead_verify')).map(({ slot }) => slot)).toEqual(
    [1, 2, 3, 4, 5, 6, 7, 8].map((n) => `lead_verify@${n}`),
  )
})

test('a rolling restart replaces one worker after the other and loses no task', async () => {
  await systemd.must('systemctl start leasehold-runner@patient@{1,2}')
  const before = await workers('patient')
  const restarting = systemd.leasehold('systemd restart --worker patient')
  const over = new AbortController()
  void restarting.finally(() => over.abort())
  const ids: string[] = []
  while (!over.signal.aborted) {
    ids.push(await submit(db.pool, 'slow', { ms: 20 }))
    expect((await workers('patient')).length).toBeGreaterThan(0)
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  const { code, stdout, stderr } = await restarting
  expect(code, stderr).toBe(0)
  expect(stdout).toMatch(/patient@1.service is back after .*\n.*patient@2.service is back after/)
  const after = await workers('patient')
  expect(after.map(({ slot }) => slot)).toEqual(['patient@1', 'patient@2'])
  for (const { id } of before) expect(after.map((worker) => worker.id)).not.toContain(id)
  // What somebody has stopped stays stopped. The order keeps systemd from forgetting the unit, as the target does that wants it.
  await systemd.must(`mkdir -p /run/systemd/system/leasehold-runner@patient@2.service.d
    printf '[Unit]\nAfter=${patient}\n' >/run/systemd/system/leasehold-runner@patient@2.service.d/50-order.conf
    systemctl daemon-reload && systemctl stop ${patient}`)
  const again = await systemd.leasehold('systemd restart --worker patient')
  expect(again.stdout).toMatch(/patient@1.service is stopped, and is left so[^]*patient@2.service is back/)
  expect(await systemd.show(patient, 'ActiveState')).toBe('inactive')
  // What an exchange that was under way brings after the drain has begun is given back, uncounted.
  const ends = `select outcome, count(*)::int as n from leasehold.attempts
    where task_id = any ($1) and outcome <> 'released' group by outcome`
  await expect
    .poll(async () => (await db.pool.query(ends, [ids])).rows)
    .toEqual([{ outcome: 'done', n: ids.length }])
})

async function workers(name: string): Promise<{ slot: string; id: string }[]> {
  const { rows } = await db.pool.query<{ slot: string; id: string }>(
    `select slot, worker_id as id from leasehold.worker_health where slot like $1 || '@%' and status <> 'dead' order by slot`,
    [name],
  )
  return rows
}

/** A way to the database that can be shut: nobody listens, then somebody does. */
class Door {
  private readonly target: URL
  private readonly server: Server
  private readonly sockets = new Set<Socket>()
  private port = 0

  constructor(url: string) {
    this.target = new URL(url)
    this.server = createServer((socket) => {
      const through = new Socket().connect(Number(this.target.port), this.target.hostname)
      for (const end of [socket, through]) {
        this.sockets.add(end)
        end.on('error', () => {}).on('close', () => (socket.destroy(), through.destroy()))
      }
      socket.pipe(through).pipe(socket)
    })
  }

  /** The address behind the door, which is still shut. */
  async address(): Promise<string> {
    this.port = await keepablePort()
    const url = new URL(this.target)
    url.host = `127.0.0.1:${this.port}`
    return url.href
  }

  open(): Promise<void> {
    return new Promise((opened) => this.server.listen(this.port, '127.0.0.1', opened))
  }

  close(): Promise<unknown> {
    for (const socket of this.sockets) socket.destroy()
    return new Promise((closed) => this.server.close(closed))
  }
}
