/**
 * `leasehold doctor`: is this installation sound? Configuration, schema, database, server settings, roles, mail, incidents.
 *
 * Invariant: it looks at everything it can reach and never stops at the first fault; exit code 1 when anything is bad.
 * It changes nothing; each fault says what to do.
 */
import { type SchemaStatus, openPool, schemaStatus } from '@leasehold/postgres'
import {
  ConfigError,
  type Db,
  type HealthCheck,
  SchemaVersionError,
  checkWorkerVersions,
  databaseHealth,
  invariantViolations,
  listRoles,
  onSnapshot,
  openIncidents,
  serverMajor,
  settingsAdvice,
} from '@leasehold/queue'
import { type Config, readConfig } from '@leasehold/service'
import type { Command } from 'commander'
import type { Pool } from 'pg'
import { type Context, locateDatabase, show } from '../context.ts'
import { exitCodes } from '../exit-codes.ts'
import { toFailure, withoutPasswords } from '../failure.ts'
import { relative } from '../terminal/time.ts'
import { healthTable } from './status.ts'

interface Section {
  readonly section: string
  readonly checks: readonly HealthCheck[]
}

/** Adds the command to the program. */
export function addDoctor(program: Command, context: Context): void {
  program
    .command('doctor')
    .description('check configuration, schema, database, roles and mail; exit 1 when something is bad')
    .option('--json', 'print one JSON document')
    .action((options: { json?: boolean }) => doctor(context, options.json))
}

async function doctor(context: Context, json: boolean | undefined): Promise<void> {
  const { config, section } = examineConfig(context)
  const sections = [section, ...(config === null ? [] : await examineDatabase(config))]
  const all = sections.flatMap((one) => one.checks.map((check) => check.status))
  const status = all.includes('bad') ? 'bad' : all.includes('warn') ? 'warn' : 'ok'
  show(context, json, { status, sections }, () => {
    const { paint } = context.terminal
    const pages = sections.map(
      (one) => `${paint('bold', one.section)}\n${healthTable(context.terminal, one.checks)}`,
    )
    const verdict = { ok: 'All is well.', warn: 'Nothing is bad.', bad: 'Something is bad.' }[status]
    return [...pages, paint('bold', verdict)].join('\n\n')
  })
  if (status === 'bad') context.exitCode = exitCodes.failed
}

// What is needed to reach the database even though other settings are wrong.
const databaseSettings = ['DATABASE_URL', 'LEASEHOLD_DATA_DIR', 'CREDENTIALS_DIRECTORY']

function examineConfig(context: Context): { config: Config | null; section: Section } {
  const { environment } = context
  try {
    const config = readConfig(environment, 'cli')
    const sound = check('settings', 'ok', 'read', '')
    return { config, section: { section: 'Configuration', checks: [sound, examineMail(config)] } }
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    const checks = error.problems.map(({ name, problem }) =>
      check(name, 'bad', problem, 'Correct it in the environment.'),
    )
    const few = Object.fromEntries(databaseSettings.map((name) => [name, environment[name]]))
    return { config: readDatabaseConfig(few), section: { section: 'Configuration', checks } }
  }
}

function readDatabaseConfig(environment: Record<string, string | undefined>): Config | null {
  try {
    return readConfig(environment, 'cli')
  } catch {
    // Its problems have been reported with the others.
    return null
  }
}

function examineMail({ smtp, monitor }: Config): HealthCheck {
  const advice =
    'Set HEARTBEAT_MONITOR_ALERT_EMAIL, SMTP_HOST and EMAIL_FROM for the monitor, or nobody gets a mail.'
  if (smtp === null) return check('alert mail', 'warn', 'not configured', advice)
  if (monitor.alertEmails.length === 0) return check('alert mail', 'warn', 'no recipient', advice)
  const login = smtp.login === null ? 'without login' : `as ${smtp.login.user}`
  return check('alert mail', 'ok', `${smtp.host}:${smtp.port} ${login}`, '')
}

async function examineDatabase(config: Config): Promise<Section[]> {
  let pool: Pool
  let address: string
  try {
    const database = await locateDatabase(config)
    address = withoutPasswords(database.url)
    pool = openPool({ connectionString: database.url, applicationName: 'leasehold doctor', max: 1 })
  } catch (error) {
    return [{ section: 'Database', checks: [failed('connection', error)] }]
  }
  try {
    const connection = await examineConnection(pool, address)
    const sections: Section[] = [{ section: 'Database', checks: connection.checks }]
    if (!connection.connected) return sections
    const schema = await examine('schema', async () => schemaChecks(await schemaStatus(pool)))
    sections.push({ section: 'Schema', checks: schema })
    if (!schema.some((one) => one.name === 'schema' && one.status === 'bad')) {
      sections.push(...(await examineQueue(pool)))
    }
    sections.push({
      section: 'Server settings',
      checks: await examine('settings', () => settingsAdvice(pool)),
    })
    return sections
  } finally {
    await pool.end()
  }
}

async function examineConnection(
  pool: Pool,
  address: string,
): Promise<{ connected: boolean; checks: HealthCheck[] }> {
  try {
    const major = await serverMajor(pool)
    const tested = major >= 14 && major <= 18
    return {
      connected: true,
      checks: [
        check('connection', 'ok', address, ''),
        check(
          'PostgreSQL',
          tested ? 'ok' : 'warn',
          String(major),
          'Leasehold is tested with PostgreSQL 14 to 18.',
        ),
      ],
    }
  } catch (error) {
    return { connected: false, checks: [failed('connection', error)] }
  }
}

function schemaChecks(status: SchemaStatus): HealthCheck[] {
  if (status.state === 'current') {
    const compared = status.objectsCompared
    return [
      check(
        'schema',
        status.newer.length > 0 ? 'warn' : 'ok',
        status.databaseVersion,
        `This program knows it up to ${status.programVersion} and can work with it; deploy the newer program.`,
      ),
      check(
        'objects',
        compared ? 'ok' : 'warn',
        compared ? 'as the migrations made them' : 'not compared',
        'The server was upgraded since: run npx leasehold migrate once to compare again.',
      ),
    ]
  }
  const { message } = new SchemaVersionError({ problem: status.state, ...status })
  return [check('schema', 'bad', status.state, message)]
}

async function examineQueue(pool: Pool): Promise<Section[]> {
  const read = <T>(work: (tx: Db) => Promise<T>): Promise<T> => onSnapshot(pool, 60_000, work)
  return [
    { section: 'Queue', checks: await examine('health', () => read(queueChecks)) },
    { section: 'Invariants', checks: await examine('invariants', () => read(violationChecks)) },
    { section: 'Open incidents', checks: await examine('incidents', () => read(incidentChecks)) },
    { section: 'Roles', checks: await examine('roles', () => read(roleChecks)) },
  ]
}

async function queueChecks(tx: Db): Promise<HealthCheck[]> {
  return [...(await databaseHealth(tx)), await checkWorkerVersions(tx)]
}

async function violationChecks(tx: Db): Promise<HealthCheck[]> {
  const violations = await invariantViolations(tx)
  if (violations.length === 0) return [check('invariants', 'ok', 'none broken', '')]
  return violations.map((one) =>
    check(
      one.violation,
      'bad',
      [one.taskId === null ? '' : `task ${one.taskId}`, one.stage, one.detail].filter(Boolean).join(', '),
      'This is a bug: please report it with this row.',
    ),
  )
}

async function incidentChecks(tx: Db): Promise<HealthCheck[]> {
  const incidents = await openIncidents(tx)
  if (incidents.length === 0) return [check('incidents', 'ok', 'none open', '')]
  return incidents.map((one) =>
    check(one.kind, 'bad', `${one.summary} (${relative(one.openMs)})`, 'See npx leasehold status.'),
  )
}

async function roleChecks(tx: Db): Promise<HealthCheck[]> {
  const roles = await listRoles(tx)
  return roles.map(({ role, exists, granted }) =>
    check(
      role,
      exists ? 'ok' : 'warn',
      exists ? (granted ? 'this login has it' : 'exists') : 'missing',
      'As an administrator: psql -1 -v ON_ERROR_STOP=1 -f migrations/roles.sql DATABASE_URL; it creates the roles and grants to them.',
    ),
  )
}

/** A part that cannot be looked at is a fault of its own and keeps the others from nothing. */
async function examine(name: string, look: () => Promise<HealthCheck[]>): Promise<HealthCheck[]> {
  try {
    return await look()
  } catch (error) {
    return [failed(name, error)]
  }
}

function failed(name: string, error: unknown): HealthCheck {
  const { message, hint } = toFailure(error)
  return check(name, 'bad', message, hint)
}

function check(
  name: string,
  status: HealthCheck['status'],
  value: string | null,
  advice: string,
): HealthCheck {
  return { name, status, value, advice }
}
