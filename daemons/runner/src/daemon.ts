/**
 * The runner daemon: one runner in the shell that all daemons share (@leasehold/service).
 *
 * It starts before its database answers and outlives every outage; it ends by a signal or when it is asked to drain (exit
 * code 0), by a wrong configuration (2), by a login that is refused or a schema that is not this program's (1), or because
 * another process has taken its slot (5). One process per slot; systemd or a script starts as many as are wanted. All
 * logic is in @leasehold/runner.
 */
import { hostname } from 'node:os'
import { type ReadyDatabase, openPool, within, withReadyDatabase } from '@leasehold/postgres'
import type { Db } from '@leasehold/queue'
import { type Runner, startRunner } from '@leasehold/runner'
import { type DaemonLife, type Watchdog, runDaemon as runInShell } from '@leasehold/service'
import { type AnyStage, type StageSurroundings, loadStages } from './stages.ts'
import { type Told, readTold } from './told.ts'

/** What handlers still do with the stages' own connections may take this long at the end. */
const poolEndMs = 500

/** Runs the daemon to its end; `toldBefore` hands over the signals and says whether one came already. */
export function runDaemon(toldBefore: () => boolean): Promise<void> {
  return runInShell({
    name: 'runner',
    home: import.meta.url,
    toldBefore,
    readTold: () => readTold(process.argv.slice(2), process.env),
    work,
  })
}

function work(told: Told, life: DaemonLife): Promise<void> {
  const { url: databaseUrl, dataDir } = told.config.database
  const database = { databaseUrl, dataDir, applicationName: 'leasehold runner start', stop: life.stop }
  return withReadyDatabase({ ...database, ...life.told }, async (ready) => {
    const pool = openPool({
      connectionString: ready.url,
      applicationName: 'leasehold stages',
      max: 10,
      userStatements: true,
    })
    try {
      await run(told, life, ready, pool)
    } finally {
      await within(poolEndMs, pool.end())
    }
  })
}

/** Takes the slot and works until the runner has ended. */
async function run(told: Told, life: DaemonLife, { url, schema }: ReadyDatabase, db: Db): Promise<void> {
  const { stop, log, version, watchdog } = life
  life.status('taking the slot')
  const stages = await stagesOf(told, url, {
    db,
    model: told.config.model,
    log: (facts, message) => log.info(facts, message),
  })
  const runner = await startRunner(
    {
      connectionString: url,
      stages,
      slot: slotFor(told, stages.map((stage) => stage.name)), // prettier-ignore
      log,
      version,
      ...(schema.programVersion !== null && { schemaVersion: schema.programVersion }),
      ...settingsOf(told, watchdog),
      onTurn: () => watchdog.turned(),
      onBeat: () => life.ready(),
      onDrain: () => life.stopping(),
    },
    stop,
  )
  life.onSecondSignal(() => void runner.stopNow())
  void life.stopped.then(() => runner.drain())
  const telling = setInterval(() => life.status(statusLine(runner)), 5000)
  await runner.ended.finally(() => clearInterval(telling))
}

function stagesOf(
  { given, declared }: Told,
  url: string,
  surroundings: StageSurroundings,
): Promise<AnyStage[]> {
  return declared === null
    ? loadStages(given.module, given.stages, surroundings)
    : declared.stages({ ...process.env, DATABASE_URL: url }, surroundings)
}

/** Without SLOT_ID every process has a slot of its own; with it, a restart takes over at once. */
function slotFor({ given, config }: Told, stages: string[]): string {
  const own = `${stages.join('+').slice(0, 50)}@${hostname().slice(0, 30)}.${process.pid}`
  return given.slot ?? config.runner.slot ?? own
}

function settingsOf(
  { given, declared, config }: Told,
  watchdog: Watchdog,
): Omit<Parameters<typeof startRunner>[0], 'connectionString' | 'stages' | 'slot' | 'log'> {
  const concurrency = given.concurrency ?? declared?.worker.concurrency ?? config.runner.concurrency
  const runFilterId = given.run ?? config.runner.runFilter
  return {
    leaseTtlMs: config.lease.ttlMs,
    beatIntervalMs: config.lease.beatIntervalMs,
    workingBeatIntervalMs: config.lease.workingBeatIntervalMs,
    // The loop turns often enough for the stricter of the two who watch it.
    wedgeLimitMs: Math.min(config.lease.wedgeLimitMs, watchdog.limitMs),
    maxPollMs: config.runner.pollMs,
    maxRetryMs: config.runner.retryMs,
    drainTimeoutMs: config.runner.drainTimeoutMs,
    monitorSilentAfterMs: config.monitor.intervalMs * 3,
    ...(concurrency === null ? {} : { concurrency }),
    ...(runFilterId === null ? {} : { runFilterId }),
  }
}

function statusLine(runner: Runner): string {
  const { held, settled } = runner.counts
  const { unwatchedMs } = runner
  const alone =
    unwatchedMs === undefined
      ? ''
      : unwatchedMs === null
        ? '; no monitor has ever looked'
        : `; no monitor for ${Math.round(unwatchedMs / 60_000)} min`
  return `${runner.slot}: ${held} running, ${settled} settled since the start${alone}`
}
