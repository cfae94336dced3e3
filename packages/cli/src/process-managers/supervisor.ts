/**
 * A configuration for Supervisor (supervisord.org): a program for each kind of process, logs rotated by Supervisor itself.
 *
 * What Supervisor cannot do: it gives up after `startretries` (so many that it takes years), waits a second longer after each
 * failed start, and knows no watchdog. Secrets are read from files, see processes.ts.
 */
import type { Manifest } from '@leasehold/manifest'
import { ConfigError } from '@leasehold/queue'
import { nodeArguments } from '../processes/become.ts'
import { finalExitCodes, type ProcessKind, processKinds } from './processes.ts'

export interface ManagerOptions {
  readonly node: string
  readonly prefix: string
  readonly logFolder: string
  readonly credentials: string
}

/** The text of a file for /etc/supervisor/conf.d. Throws ConfigError for a value that it cannot hold. */
export function supervisorConfig(manifest: Manifest, options: ManagerOptions): string {
  const kinds = processKinds(manifest)
  const name = (kind: ProcessKind): string => `${options.prefix}-${kind.name}`
  return [
    `; Leasehold under Supervisor, from ${oneLine(manifest.file)}. Made by: leasehold supervisor print`,
    `; Secrets are files in ${oneLine(options.credentials)} that ${manifest.service.user} can read; the folder of the logs must exist:`,
    `; install -d -o ${manifest.service.user} ${oneLine(options.logFolder)}`,
    '',
    ...kinds.flatMap((kind) => [`[program:${name(kind)}]`, ...program(manifest, kind, options), '']),
    `[group:${options.prefix}]`,
    `programs=${kinds.map(name).join(',')}`,
    '',
  ].join('\n')
}

function program(manifest: Manifest, kind: ProcessKind, options: ManagerOptions): string[] {
  const number = '%(process_num)d'
  const words = [options.node, ...nodeArguments(kind.entry), ...kind.args('\0')]
  const env = { ...kind.env, CREDENTIALS_DIRECTORY: options.credentials }
  return [
    `command=${words.map(shellWord).join(' ').replaceAll('\0', number)}`,
    `process_name=${kind.name}@${number}`,
    `numprocs=${kind.count}`,
    'numprocs_start=1',
    `user=${manifest.service.user}`,
    `directory=${escaped(kind.directory)}`,
    `environment=${Object.entries(env).map(variable).join(',')}`,
    'autostart=true',
    `; ${finalExitCodes.join(' and ')}: wrongly configured, or its slot was taken: starting it again would not help`,
    'autorestart=unexpected',
    `exitcodes=${finalExitCodes.join(',')}`,
    'startsecs=5',
    'startretries=100000',
    'stopsignal=TERM',
    `stopwaitsecs=${Math.ceil(kind.stopTimeoutMs / 1_000)}`,
    '; SIGTERM to the process alone, so that it can drain; SIGKILL to all it has started',
    'stopasgroup=false',
    'killasgroup=true',
    'redirect_stderr=true',
    `stdout_logfile=${escaped(options.logFolder)}/${kind.name}@${number}.log`,
    'stdout_logfile_maxbytes=10MB',
    'stdout_logfile_backups=5',
  ]
}

/** Supervisor replaces `%(…)s` everywhere; a percent sign is written twice. */
function escaped(text: string): string {
  return oneLine(text).replaceAll('%', '%%')
}

function shellWord(word: string): string {
  const plain = escaped(word)
  return /^[\w@%+=:,./\0-]+$/.test(plain) ? plain : `'${plain.replaceAll("'", `'"'"'`)}'`
}

/** Supervisor knows quotes and no escapes in an environment: a value may have one kind of them. */
function variable([name, value]: [string, string]): string {
  const quote = value.includes('"') ? "'" : '"'
  if (value.includes(quote))
    throw new ConfigError([
      { name, problem: 'has both kinds of quotes, which Supervisor cannot hold in an environment' },
    ])
  return `${name}=${quote}${escaped(value)}${quote}`
}

function oneLine(text: string): string {
  if (/[\r\n]/.test(text))
    throw new ConfigError([{ name: 'supervisor', problem: `${JSON.stringify(text)} is not one line` }])
  return text
}
