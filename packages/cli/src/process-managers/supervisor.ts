/**
 * A configuration for Supervisor (supervisord.org): a program for each kind of process, logs rotated by Supervisor itself.
 *
 * `startsecs=0`: within its first seconds Supervisor looks at no exit code, and would repeat a wrong configuration for ever.
 * So 2 and 5 always stay down, and everything else is always started again, without a pause that grows; there is no
 * watchdog either. Secrets are read from files, see processes.ts.
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
  const env = Object.entries({ ...kind.env, CREDENTIALS_DIRECTORY: options.credentials })
  const given = env.filter(([, value]) => !fitsEnvironment(value))
  const words = [
    ...(given.length === 0 ? [] : ['/usr/bin/env', ...given.map(([name, value]) => `${name}=${value}`)]),
    options.node,
    ...nodeArguments(kind.entry),
    ...kind.args('\0'),
  ]
  return [
    `command=${words.map(shellWord).join(' ').replaceAll('\0', number)}`,
    `process_name=${kind.name}@${number}`,
    `numprocs=${kind.count}`,
    'numprocs_start=1',
    `user=${manifest.service.user}`,
    `directory=${bare(kind.directory)}`,
    `environment=${env
      .filter(([, value]) => fitsEnvironment(value))
      .map(([name, value]) => `${name}="${escaped(value)}"`)
      .join(',')}`,
    'autostart=true',
    `; ${finalExitCodes.join(' and ')}: wrongly configured, or its slot was taken: starting it again would not help;`,
    '; startsecs=0 because exit codes are looked at only after it',
    'autorestart=unexpected',
    `exitcodes=${finalExitCodes.join(',')}`,
    'startsecs=0',
    'stopsignal=TERM',
    `stopwaitsecs=${Math.ceil(kind.stopTimeoutMs / 1_000)}`,
    '; SIGTERM to the process alone, so that it can drain; SIGKILL to all it has started',
    'stopasgroup=false',
    'killasgroup=true',
    'redirect_stderr=true',
    `stdout_logfile=${bare(options.logFolder)}/${kind.name}@${number}.log`,
    'stdout_logfile_maxbytes=10MB',
    'stdout_logfile_backups=5',
  ]
}

/** Supervisor replaces `%(…)s` everywhere; a percent sign is written twice. */
function escaped(text: string): string {
  return oneLine(text).replaceAll('%', '%%')
}

/** A text without quotes around it: what would be cut off or stripped is refused. */
function bare(text: string): string {
  if (comment.test(text) || text.trim() !== text)
    throw new ConfigError([
      {
        name: 'supervisor',
        problem: `${JSON.stringify(text)} cannot be written: a blank before ; or # begins a comment`,
      },
    ])
  return escaped(text)
}

/** A word as Supervisor splits a command. A quote between a blank and what would begin a comment keeps them apart. */
function shellWord(word: string): string {
  const plain = escaped(word)
  if (/^[\w@%+=:,./\0-]+$/.test(plain)) return plain
  return `'${plain.replaceAll("'", `'"'"'`).replaceAll(/(\s)([;#])/g, "$1''$2")}'`
}

/** Also within quotes. */
const comment = /\s[;#]/

/** Supervisor strips quotes off the ends of a variable's value and knows no escapes: what has any is said to env(1). */
function fitsEnvironment(value: string): boolean {
  return !/["']/.test(value) && !comment.test(value)
}

function oneLine(text: string): string {
  if (/[\r\n]/.test(text))
    throw new ConfigError([{ name: 'supervisor', problem: `${JSON.stringify(text)} is not one line` }])
  return text
}
