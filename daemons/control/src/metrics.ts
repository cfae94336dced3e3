/**
 * What Prometheus is told: the overview as gauges, and how this process itself is doing. Text format 0.0.4, which every
 * Prometheus reads; prom-client escapes and formats, and knows how to measure a Node process.
 *
 * Invariant: what is not known is not said: without an answer of the database there is `leasehold_up 0` and none of its
 * gauges. Known statuses and kinds are there with 0, so that a rule has something to compare. Names: docs/control.md.
 */
import { incidentKinds } from '@leasehold/queue'
import { Counter, Gauge, Registry, collectDefaultMetrics } from 'prom-client'
import type { Answer } from './shared-read.ts'
import type { Overview } from './source.ts'

const workerStatuses = ['dead', 'wedged', 'late', 'draining', 'working', 'idle']
const schedulerStatuses = ['live', 'dead', 'stopped']
const scheduleStatuses = ['ok', 'late', 'broken', 'failed', 'skipped', 'not planned yet', 'disabled']
const checkValues = { ok: 0, warn: 1, bad: 2 }

/** The metrics of one process; two of them in one process count apart. */
export class Metrics {
  /** For the header of the answer. */
  readonly contentType: string
  private readonly registry = new Registry()
  private readonly up: Gauge
  private readonly readSeconds: Gauge
  private readonly reads: Counter<'result'>
  private rendered: { readonly of: Overview; readonly text: string } | null = null

  constructor(version: string) {
    const registers = [this.registry]
    this.contentType = this.registry.contentType
    collectDefaultMetrics({ register: this.registry })
    this.up = new Gauge({
      name: 'leasehold_up',
      help: 'Whether the database was read for this scrape: 1, or 0 and then none of the metrics from it is there.',
      registers,
    })
    new Gauge({
      name: 'leasehold_control_info',
      help: 'Always 1; the version of the control service is a label.',
      labelNames: ['version'],
      registers,
    }).set({ version }, 1)
    this.reads = new Counter({
      name: 'leasehold_database_reads_total',
      help: 'Reads of the database for scrapes and health checks by this process, by result.',
      labelNames: ['result'],
      registers,
    })
    for (const result of ['ok', 'failed']) this.reads.inc({ result }, 0)
    this.readSeconds = new Gauge({
      name: 'leasehold_database_read_seconds',
      help: 'How long the last successful read of the database took.',
      registers,
    })
  }

  /** Counts a read that has ended. */
  note(answer: Answer<unknown>): void {
    this.reads.inc({ result: answer.ok ? 'ok' : 'failed' })
    if (answer.ok) this.readSeconds.set(answer.tookMs / 1_000)
  }

  /** Everything as text. */
  async render(answer: Answer<Overview>): Promise<string> {
    this.up.set(answer.ok ? 1 : 0)
    const own = await this.registry.metrics()
    return answer.ok ? `${await this.ofDatabase(answer.value)}${own}` : own
  }

  private async ofDatabase(overview: Overview): Promise<string> {
    // Who shares a read shares its text.
    if (this.rendered?.of !== overview) this.rendered = { of: overview, text: await textOf(overview) }
    return this.rendered.text
  }
}

/** The part that comes from the database. */
function textOf(overview: Overview): Promise<string> {
  const registry = new Registry()
  addStages(registry, overview.stages)
  const { workers, schedulers, schedules, incidents } = overview.counts
  addCounts(registry, 'leasehold_workers', 'Workers that have not ended, by status.', 'status', workerStatuses, workers) // prettier-ignore
  addCounts(registry, 'leasehold_schedulers', 'Scheduler processes of the last week, by status.', 'status', schedulerStatuses, schedulers) // prettier-ignore
  addCounts(registry, 'leasehold_schedules', 'Schedules by status; late: a slot is overdue by more than two minutes.', 'status', scheduleStatuses, schedules) // prettier-ignore
  addCounts(registry, 'leasehold_open_incidents', 'What is wrong now and was noticed by a monitor, by kind.', 'kind', incidentKinds, incidents) // prettier-ignore
  const check = gauge(registry, 'leasehold_database_check', 'The checks of the view database_health: 0 ok, 1 worth a look, 2 bad.', 'check') // prettier-ignore
  for (const { name, status } of overview.checks) check.set({ check: name }, checkValues[status])
  const silence = overview.monitorSilentMs
  new Gauge({
    name: 'leasehold_monitor_silence_seconds',
    help: 'Since any heartbeat monitor has looked; +Inf when none ever has.',
    registers: [registry],
  }).set(silence === null ? Infinity : silence / 1_000)
  return registry.metrics()
}

function addStages(registry: Registry, stages: Overview['stages']): void {
  const add = (name: string, help: string, value: (stage: Overview['stages'][number]) => number): void => {
    const one = gauge(registry, `leasehold_stage_${name}`, help, 'stage')
    for (const stage of stages) one.set({ stage: stage.stage }, value(stage))
  }
  const sampled = 'above 1000 as the monitor last sampled it.'
  add('ready_tasks', `Tasks that may be claimed now; ${sampled}`, ({ ready }) => ready)
  add(
    'scheduled_tasks',
    `Tasks that are due later, retries among them; ${sampled}`,
    ({ scheduled }) => scheduled,
  )
  add('waiting_tasks', `Tasks that wait for others or for their key; ${sampled}`, ({ waiting }) => waiting)
  add('running_tasks', 'Tasks that a worker holds.', ({ running }) => running)
  add(
    'oldest_ready_age_seconds',
    'Since the submission of the foremost ready task of the lowest priority in use; 0 when none is ready.',
    ({ oldestReadyMs }) => (oldestReadyMs ?? 0) / 1_000,
  )
  add(
    'live_workers',
    'Workers that serve the stage and whose lease is valid.',
    ({ liveWorkers }) => liveWorkers,
  )
  add(
    'expected_workers',
    'How many workers the stage says it expects; 0: it does not say.',
    (s) => s.expectedWorkers,
  )
  add('paused', '1 while nothing of the stage is claimed because somebody has paused it.', ({ paused }) =>
    paused ? 1 : 0,
  )
}

function addCounts(
  registry: Registry,
  name: string,
  help: string,
  label: string,
  known: readonly string[],
  counts: ReadonlyMap<string, number>,
): void {
  const one = gauge(registry, name, help, label)
  for (const value of new Set([...known, ...counts.keys()]))
    one.set({ [label]: value }, counts.get(value) ?? 0)
}

function gauge(registry: Registry, name: string, help: string, label: string): Gauge {
  return new Gauge({ name, help, labelNames: [label], registers: [registry] })
}
