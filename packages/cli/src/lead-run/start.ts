/**
 * What `leasehold start` does: database, schema, monitor, scheduler, three runners, a run of the lead pipeline with progress
 * and result.
 *
 * Daemons write to a log file instead of the terminal, which shows the run. Leases are short here, so that a killed
 * worker is noticed while one watches; production has its own settings. What it started ends with it, in order. Where the
 * workers run already, started by an earlier one, it starts none: its run goes to them.
 */
import { createWriteStream, mkdirSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { sampleDirectory, startRun, suppressDomains } from '@leasehold/pipeline-leads'
import { openPool, resolveDatabase } from '@leasehold/postgres'
import type { Db, WorkerHealth } from '@leasehold/queue'
import { type Environment, onShutdown, readConfig } from '@leasehold/service'
import type { Context } from '../context.ts'
import { exitCodes } from '../exit-codes.ts'
import { usageError, withoutPasswords } from '../failure.ts'
import { followRun } from './progress.ts'
import { showResult } from './result.ts'
import { runningWorkers } from './running-fleet.ts'
import { catchMail, type MailCatcher } from '../mail-catcher.ts'
import { migrateAll } from '../pipeline.ts'
import { Fleet, type Member } from '../processes/fleet.ts'
import type { Terminal } from '../terminal/terminal.ts'
import { runnerMembers, watchers } from '../commands/dev.ts'
import type { StartOptions } from '../commands/start.ts'

/** Short enough to watch; an environment that sets them itself wins. */
const watchable = {
  LEASEHOLD_LEASE_TTL_MS: '9000',
  LEASEHOLD_BEAT_INTERVAL_MS: '2000',
  HEARTBEAT_MONITOR_INTERVAL: '3',
}

/** Instead of a file: no directory, a model searches. */
const askClaude = 'claude'

/** Runs `leasehold start`. */
export async function startAll(context: Context, options: StartOptions): Promise<void> {
  const { terminal, environment } = context
  const given = { ...watchable, ...environment }
  // Its monitor uses the mail server that is named, and would end over half a setting where nobody looks.
  const mailServer = (environment['SMTP_HOST'] ?? '').trim() !== ''
  const config = readConfig(given, mailServer ? 'monitor' : 'cli')
  if (options.source === askClaude && config.model.apiKey === null) {
    throw usageError(
      '--source claude asks Claude with web search, which needs ANTHROPIC_API_KEY',
      'set it, or name a company directory: --source companies.csv',
    )
  }
  const stopping = new AbortController()
  const fleets: Fleet[] = []
  const unwatch = onShutdown({
    drain: () => {
      terminal.note('draining; press Ctrl-C again to stop at once')
      stopping.abort()
    },
    stopNow: () => {
      for (const fleet of fleets) fleet.stop()
    },
  })
  const logFolder = resolve('logs')
  mkdirSync(logFolder, { recursive: true })
  const database = await resolveDatabase({
    databaseUrl: config.database.url ?? undefined,
    dataDir: config.database.dataDir,
    log: (event) => terminal.note(event),
  })
  const pool = openPool({ connectionString: database.url, applicationName: 'leasehold start', max: 4 })
  let mail: MailCatcher | null = null
  try {
    await migrateAll(database.url)
    const members = runnerMembers({ restart: options.restart })
    const running = await runningWorkers(
      pool,
      members.map(({ slot }) => slot),
    )
    const shared = running.length > 0
    if (!shared) {
      if (config.smtp === null) {
        mail = await catchMail(join(logFolder, 'mail'), (subject, file) =>
          terminal.out(`mail: ${subject}  (${file})`),
        )
      }
      const log = logTerminal(join(logFolder, 'leasehold.log'), terminal)
      fleets.push(
        ...startFleets(members, childEnvironment(environment, database.url, mail), log, options.restart),
      )
    }
    introduce(terminal, database.url, logFolder, mail !== null, running)
    const ended = await runLeads(context, pool, options, stopping.signal)
    if (!ended) context.exitCode = exitCodes.failed
    if (shared) terminal.out(`${terminal.paint('cyan', '→')} the workers go on where they were started`)
    else if (options.once !== true && !stopping.signal.aborted) await stayUp(terminal, stopping.signal)
  } finally {
    unwatch()
    await endFleets(fleets)
    await mail?.stop()
    await pool.end()
    await database.stop()
  }
}

function childEnvironment(environment: Environment, url: string, mail: MailCatcher | null): Environment {
  const caught = {
    SMTP_HOST: '127.0.0.1',
    SMTP_PORT: String(mail?.port),
    EMAIL_FROM: 'leasehold@localhost.invalid',
    HEARTBEAT_MONITOR_ALERT_EMAIL:
      environment['HEARTBEAT_MONITOR_ALERT_EMAIL'] ?? 'operator@localhost.invalid',
  }
  return { ...watchable, ...environment, ...(mail === null ? {} : caught), DATABASE_URL: url }
}

function startFleets(
  members: readonly Member[],
  environment: Environment,
  terminal: Terminal,
  restart: boolean,
): Fleet[] {
  const shared = { terminal, environment, restart, nameWidth: 17 }
  return [new Fleet(members, shared), new Fleet(watchers, shared)]
}

/** Runners drain first; the monitor watches them until the end. */
async function endFleets(fleets: Fleet[]): Promise<void> {
  for (const fleet of fleets) {
    fleet.stop()
    await fleet.ended
  }
}

function introduce(
  terminal: Terminal,
  url: string,
  logFolder: string,
  catching: boolean,
  running: readonly WorkerHealth[],
): void {
  terminal.out(`database  ${withoutPasswords(url)}`)
  if (running.length > 0) {
    const workers = running.map(({ slot, host, pid }) => `${slot} (pid ${pid ?? '?'} on ${host})`)
    terminal.out(`workers   run already and get this run too: ${workers.join(', ')}`)
    return
  }
  terminal.out(`logs      ${join(logFolder, 'leasehold.log')}`)
  if (catching)
    terminal.out(
      `mails     ${join(logFolder, 'mail')} (SMTP_HOST is not set: they are caught here, not sent)`,
    )
}

/** Runs the pipeline once; true when nothing of it was left unfinished or dead. */
async function runLeads(
  context: Context,
  db: Db,
  options: StartOptions,
  signal: AbortSignal,
): Promise<boolean> {
  const { terminal } = context
  const { source, city, state, country, kind, pms, target, minScore } = options
  const sample = source === undefined
  if (sample) {
    const domains = (await readFile(sampleDirectory.suppressedDomains, 'utf8')).split('\n')
    const named = domains.map((line) => line.trim()).filter((line) => line !== '' && !line.startsWith('#'))
    await suppressDomains(db, named, 'on the suppression list of the sample')
  }
  const anywhere = [city, state, country, kind, pms].every((one) => one === undefined)
  const { runId } = await startRun(db, {
    target,
    ...(source === askClaude ? {} : { source: resolve(source ?? sampleDirectory.companies) }),
    // The sample asks for something particular, to show the matching.
    ...(sample && anywhere ? { state: 'TX', kind: 'property management' } : {}),
    ...definedOf({ city, state, country, kind, pms, minScore }),
  })
  terminal.out(`run       ${runId}${sample ? ' on the sample directory (made-up companies)' : ''}\n`)
  const standing = await followRun(db, runId, terminal, signal)
  await showResult(db, runId, standing, terminal)
  terminal.out(`\n${terminal.paint('cyan', '→')} npx leasehold export ${runId} --csv -o leads.csv`)
  return standing.open === 0 && standing.stages.every((stage) => stage.dead === 0)
}

function definedOf(values: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined))
}

async function stayUp(terminal: Terminal, signal: AbortSignal): Promise<void> {
  terminal.out(
    `${terminal.paint('cyan', '→')} everything keeps running: npx leasehold status, or psql; Ctrl-C ends it in order`,
  )
  if (signal.aborted) return
  // The signal alone keeps nothing alive.
  const alive = setInterval(() => {}, 60_000)
  await new Promise<void>((done) => signal.addEventListener('abort', () => done(), { once: true }))
  clearInterval(alive)
}

/** What the daemons say goes to a file; the terminal belongs to the run. */
function logTerminal(file: string, terminal: Terminal): Terminal {
  const stream = createWriteStream(file, { flags: 'w' })
  const write = (line: string): void => void stream.write(`${line}\n`)
  return { ...terminal, isTty: false, out: write, note: write, paint: (_style, text) => text }
}
