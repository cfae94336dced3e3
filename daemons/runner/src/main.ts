/**
 * The runner daemon: wires configuration, log, database, signals and systemd around one runner.
 *
 * Which stages it serves: `--stage NAME …` out of those that `--module FILE|PACKAGE` exports (default: the lead
 * pipeline). One process per slot; systemd or a script starts as many as are wanted.
 * Refuses to claim anything before the schema was checked. All logic is in @leasehold/runner.
 */
import { hostname } from 'node:os'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { assertSchema, openPool, resolveDatabase } from '@leasehold/postgres'
import { ConfigError, type Db } from '@leasehold/queue'
import { type Runner, startRunner } from '@leasehold/runner'
import { type Config, createLogger, type Logger, notifier, onShutdown, readConfig, runMain } from '@leasehold/service'
import { loadStages } from './stages.ts'

const version = '0.1.0'

const { values } = parseArgs({
  options: {
    stage: { type: 'string', multiple: true },
    module: { type: 'string', default: '@leasehold/pipeline-leads' },
    slot: { type: 'string' },
    concurrency: { type: 'string' },
    run: { type: 'string' },
  },
})

await runMain(async () => {
  const config = readConfig(process.env, 'runner')
  const log = createLogger({ level: config.log.level, name: 'runner' })
  const systemd = notifier(process.env)
  const stopping = new AbortController()
  let runner: Runner | null = null
  const unwatch = onShutdown({
    drain: () => {
      systemd.stopping()
      stopping.abort()
      void runner?.drain()
    },
    stopNow: () => void runner?.stopNow(),
  })
  const database = await resolveDatabase({ databaseUrl: config.database.url ?? undefined, dataDir: config.database.dataDir })
  const pool = openPool({ connectionString: database.url, applicationName: 'leasehold stages', max: 10 })
  try {
    await assertSchema(pool)
    const stages = await loadStages(importable(values.module), values.stage ?? [], {
      db: pool as Db,
      model: config.model,
      log: (facts, message) => log.info(facts, message),
    })
    runner = await startRunner(
      {
        connectionString: database.url,
        stages,
        slot: slotFor(config, stages.map((s) => s.name)),
        log,
        leaseTtlMs: config.lease.ttlMs,
        beatIntervalMs: config.lease.beatIntervalMs,
        wedgeLimitMs: config.lease.wedgeLimitMs,
        maxPollMs: config.runner.pollMs,
        drainTimeoutMs: config.runner.drainTimeoutMs,
        version,
        ...concurrencyFor(config),
        ...runFilter(config),
        onTurn: watchdogFeeder(systemd),
      },
      stopping.signal,
    )
    if (stopping.signal.aborted) void runner.drain()
    systemd.ready()
    const telling = setInterval(() => systemd.status(statusLine(runner!)), 5000)
    try {
      await runner.ended
    } finally {
      clearInterval(telling)
    }
  } catch (error) {
    if (stopping.signal.aborted && runner === null) return // told to stop before it had started
    logFault(log, error)
    throw error
  } finally {
    unwatch()
    await pool.end().catch(() => {})
    await database.stop()
  }
})

function importable(module: string): string {
  return /^[./]/.test(module) ? pathToFileURL(resolve(module)).href : module
}

/** Without SLOT_ID every process has a slot of its own; with it, a restart takes over at once. */
function slotFor(config: Config, stages: string[]): string {
  return values.slot ?? config.runner.slot ?? `${stages.join('+').slice(0, 50)}@${hostname().slice(0, 30)}.${process.pid}`
}

function concurrencyFor(config: Config): { concurrency?: number } {
  if (values.concurrency === undefined) return config.runner.concurrency === null ? {} : { concurrency: config.runner.concurrency }
  if (!/^[1-9]\d{0,5}$/.test(values.concurrency)) {
    throw new ConfigError([{ name: '--concurrency', problem: `must be a whole number from 1, not '${values.concurrency}'` }])
  }
  return { concurrency: Number(values.concurrency) }
}

function runFilter(config: Config): { runFilterId?: string } {
  const run = values.run ?? config.runner.runFilter
  return run === null ? {} : { runFilterId: run }
}

/** Feeds systemd's watchdog from the main loop: a loop that stands still is killed and started again. */
function watchdogFeeder(systemd: ReturnType<typeof notifier>): () => void {
  let fedAt = -Infinity
  return () => {
    if (systemd.watchdogIntervalMs === null) return
    const now = performance.now()
    if (now - fedAt < systemd.watchdogIntervalMs / 2) return
    fedAt = now
    systemd.watchdog()
  }
}

function statusLine(runner: Runner): string {
  const { held, settled } = runner.counts
  return `${runner.slot}: ${held} running, ${settled} settled since the start`
}

function logFault(log: Logger, error: unknown): void {
  const { code, message } = error as { code?: string; message?: string }
  log.error({ event: 'runner.fault', code, message }, 'the runner ended')
}
