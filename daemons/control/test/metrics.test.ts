/**
 * What /metrics says: it follows the database, is well-formed, costs one read however many ask, and is documented.
 */
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { incidentKinds, registerWorker } from '@leasehold/queue'
import { beforeEach, expect, test } from 'vitest'
import { type TestDatabase, createTestDatabase } from '../../../test/harness/database.ts'
import { openTestRoom, readMetrics, scrape } from './scraping.ts'

let db: TestDatabase
let address: string
beforeEach(async ({ onTestFinished }) => {
  db = await createTestDatabase()
  onTestFinished(() => db.drop())
  await db.pool.query(
    "insert into leasehold.stages (name, expected_workers) values ('work', 3), ('other', 0)",
  )
  const opened = await openTestRoom(db.url)
  onTestFinished(() => opened.close())
  address = opened.room.address
})

const work = 'stage="work"'

async function submit(n: number, columns: string, values: string): Promise<void> {
  await db.pool.query(
    `insert into leasehold.tasks (stage${columns}) select 'work'${values} from generate_series(1, $1)`,
    [n],
  )
}

test('depths, workers, pauses, schedules and incidents are those of the database at the moment of the scrape', async () => {
  await submit(4, '', '')
  await submit(2, ', run_at', ", now() + interval '1 hour'")
  await submit(1, ', depends_on', ', (select array_agg(id) from leasehold.tasks)')
  await db.advance(60_000)
  await registerWorker(db.pool, { slot: 'work@1', stages: ['work'], leaseTtlMs: 90_000, beatIntervalMs: 30_000, host: 'host.example', pid: 1, version: 'x', concurrency: 4 }) // prettier-ignore
  await db.pool.query("select leasehold.pause_stage('other')")
  await db.pool.query("insert into leasehold.incidents (kind, subject, summary, opened_at) select kind, 'x', 'y', leasehold.clock() from unnest(array['stage_without_worker', 'made_up']) as kind") // prettier-ignore
  const first = await scrape(address)
  expect(first.of('leasehold_up')).toBe(1)
  expect(first.of('leasehold_control_info', 'version="1.2.3"')).toBe(1)
  expect(first.of('leasehold_stage_ready_tasks', work)).toBe(4)
  expect(first.of('leasehold_stage_scheduled_tasks', work)).toBe(2)
  expect(first.of('leasehold_stage_waiting_tasks', work)).toBe(1)
  expect(first.of('leasehold_stage_running_tasks', work)).toBe(0)
  expect(first.of('leasehold_stage_oldest_ready_age_seconds', work)).toBeGreaterThanOrEqual(60)
  expect(first.of('leasehold_stage_oldest_ready_age_seconds', 'stage="other"')).toBe(0)
  expect(first.of('leasehold_stage_live_workers', work)).toBe(1)
  expect(first.of('leasehold_stage_expected_workers', work)).toBe(3)
  expect(first.of('leasehold_stage_paused', 'stage="other"')).toBe(1)
  expect(first.of('leasehold_stage_paused', work)).toBe(0)
  expect(first.of('leasehold_workers', 'status="idle"')).toBe(1)
  expect(first.of('leasehold_workers', 'status="dead"')).toBe(0)
  expect(first.of('leasehold_open_incidents', 'kind="stage_without_worker"')).toBe(1)
  expect(first.of('leasehold_open_incidents', 'kind="made_up"')).toBe(1)
  expect(first.of('leasehold_open_incidents', `kind="${incidentKinds[0]}"`)).toBe(0)
  expect(first.of('leasehold_schedules', 'status="late"')).toBe(0)
  // Nobody has ever looked: that is a silence without end.
  expect(first.of('leasehold_monitor_silence_seconds')).toBe(Infinity)
  expect(first.of('leasehold_database_check', 'check="monitor"')).toBe(2)

  await db.advance(120_000)
  await db.pool.query("select leasehold.monitor_beat(gen_random_uuid(), 'host.example', 1, 'test', 60000)")
  await expect.poll(async () => (await scrape(address)).of('leasehold_workers', 'status="dead"')).toBe(1)
  const later = await scrape(address)
  expect(later.of('leasehold_stage_live_workers', work)).toBe(0)
  expect(later.of('leasehold_monitor_silence_seconds')).toBeLessThan(60)
  expect(later.of('leasehold_database_check', 'check="monitor"')).toBe(0)
})

test('ten scrapes at once are one read of the database', async () => {
  const scrapes = await Promise.all(Array.from({ length: 10 }, () => scrape(address)))
  expect(new Set(scrapes.map((one) => one.of('leasehold_database_reads_total', 'result="ok"')))).toEqual(new Set([1])) // prettier-ignore
  expect(new Set(scrapes.map((one) => one.of('leasehold_stage_ready_tasks', work)))).toEqual(new Set([0]))
})

test('whatever a stage is called, its label is one label and the text stays readable', async () => {
  // The schema refuses such names; what is told to others does not rely on it.
  await db.pool.query('alter table leasehold.stages drop constraint stage_name_is_plain')
  await db.pool.query('insert into leasehold.stages (name) values ($1)', ['a"} 1\n# HELP x\\'])
  const { samples } = await scrape(address)
  const stages = samples.filter(({ name }) => name === 'leasehold_stage_ready_tasks')
  expect(stages.map(({ labels }) => labels)).toContain(String.raw`stage="a\"} 1\n# HELP x\\"`)
  expect(stages).toHaveLength(3)
})

test('every metric has one HELP and one TYPE before its samples, and a name as Prometheus wants it', async () => {
  const { text, samples } = await scrape(address)
  const metrics = declared(text)
  expect(new Set(metrics.map(({ name }) => name)).size).toBe(metrics.length)
  for (const { name, type, help } of metrics) {
    expect(help, name).toMatch(/\S/)
    expect(name).toMatch(/^[a-z][a-z0-9_]*$/)
    if (name.startsWith('leasehold_')) {
      expect(name.endsWith('_total'), name).toBe(type === 'counter')
      expect(name).not.toMatch(/_(ms|millis|milliseconds|minutes|count|gauge)$/)
    }
  }
  const known = new Set(metrics.map(({ name }) => name))
  const family = (name: string): string => (known.has(name) ? name : name.replace(/_(bucket|sum|count)$/, ''))
  expect(samples.filter(({ name }) => !known.has(family(name)))).toEqual([])
  const lines = samples.map(({ name, labels }) => `${name}{${labels}}`)
  expect(new Set(lines).size).toBe(lines.length)
})

test('docs/control.md has a row for each metric, with its type and its labels', async () => {
  const docs = readFileSync(new URL('../../../docs/control.md', import.meta.url), 'utf8')
  const rows = [...docs.matchAll(/^\| `(leasehold_\w+)(?:\{(\w+)\})?` +\| (\w+) +\|/gm)]
  const documented = rows.map(([, name, label, type]) => ({ name, label: label ?? '', type }))
  const { text, samples } = await scrape(address)
  const said = declared(text)
    .filter(({ name }) => name.startsWith('leasehold_'))
    .map(({ name, type }) => {
      const labels = samples.find((one) => one.name === name)?.labels ?? ''
      return { name, label: labels.split('=')[0]!, type }
    })
  expect(documented.toSorted(byName)).toEqual(said.toSorted(byName))
  expect(declared(text).filter(({ name }) => !/^(leasehold|process|nodejs)_/.test(name))).toEqual([])
})

test('a login in leasehold_observer is enough, for every answer', async ({ onTestFinished }) => {
  const user = `control_${process.pid}_${randomBytes(3).toString('hex')}`
  const password = randomBytes(12).toString('hex')
  await db.pool.query(`create role ${user} login password '${password}' in role leasehold_observer`)
  onTestFinished(async () => {
    await db.pool.query(`drop owned by ${user}`)
    await db.pool.query(`drop role ${user}`)
  })
  const own = Object.assign(new URL(db.url), { username: user, password })
  const opened = await openTestRoom(own.href)
  onTestFinished(() => opened.close())
  const { room } = opened
  await db.pool.query("select leasehold.monitor_beat(gen_random_uuid(), 'host.example', 1, 'test', 60000)")
  expect((await scrape(room.address)).of('leasehold_up')).toBe(1)
  const answers = await Promise.all(
    ['readyz', 'health'].map((path) => fetch(`http://${room.address}/${path}`)),
  )
  expect(answers.map(({ status }) => status)).toEqual([200, 200])
})

test('without a database there is leasehold_up 0, the process, and nothing that is not known', async ({
  onTestFinished,
}) => {
  const opened = await openTestRoom(null)
  onTestFinished(() => opened.close())
  const { room } = opened
  const response = await fetch(`http://${room.address}/metrics`)
  expect(response.status).toBe(200)
  expect(response.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8')
  const said = readMetrics(await response.text())
  expect(said.of('leasehold_up')).toBe(0)
  expect(said.of('process_start_time_seconds')).toBeGreaterThan(0)
  expect(said.text).not.toMatch(/leasehold_(stage|workers|open_incidents|monitor)/)
})

function byName(a: { name: string | undefined }, b: { name: string | undefined }): number {
  return a.name! < b.name! ? -1 : 1
}

function declared(text: string): { name: string; type: string; help: string }[] {
  const found = [...text.matchAll(/^# HELP (\S+) (.*)\n# TYPE (\S+) (\w+)$/gm)]
  expect(found.length * 2).toBe(text.match(/^# /gm)?.length)
  return found.map(([, name, help, typed, type]) => {
    expect(typed).toBe(name)
    return { name: name!, type: type!, help: help! }
  })
}
