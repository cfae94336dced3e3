/**
 * A configuration for PM2: an app for each process, because each has a slot of its own.
 *
 * What PM2 cannot do: it rotates no logs itself (pm2-logrotate does, see the comment in the file) and knows no watchdog.
 * Secrets are read from files, see processes.ts.
 */
import type { Manifest } from '@leasehold/manifest'
import { fileURLToPath } from 'node:url'
import { nodeArguments } from '../processes/become.ts'
import { finalExitCodes, type ProcessKind, processKinds } from './processes.ts'
import type { ManagerOptions } from './supervisor.ts'

/** The text of an `ecosystem.config.cjs`. */
export function pm2Config(manifest: Manifest, options: ManagerOptions): string {
  const apps = processKinds(manifest).flatMap((kind) =>
    Array.from({ length: kind.count }, (_, index) => app(kind, index + 1, options)),
  )
  return `// Leasehold under PM2, from ${JSON.stringify(manifest.file)}. Made by: leasehold pm2 print > ecosystem.config.cjs
// Start: pm2 start ecosystem.config.cjs && pm2 save; on boot: pm2 startup
// Logs are rotated by a module of PM2:
//   pm2 install pm2-logrotate
//   pm2 set pm2-logrotate:max_size 10M && pm2 set pm2-logrotate:retain 5 && pm2 set pm2-logrotate:compress true
// Secrets are files in CREDENTIALS_DIRECTORY, named like the setting and readable by the user of PM2.
module.exports = ${JSON.stringify({ apps }, null, 2)}
`
}

function app(kind: ProcessKind, number: number, options: ManagerOptions): object {
  const name = `${kind.name}@${number}`
  const log = `${options.logFolder}/${name}.log`
  return {
    name: `${options.prefix}-${name}`,
    script: fileURLToPath(kind.entry),
    args: kind.args(number),
    interpreter: options.node,
    node_args: nodeArguments(kind.entry).slice(0, -1),
    exec_mode: 'fork',
    instances: 1,
    cwd: kind.directory,
    env: { ...kind.env, CREDENTIALS_DIRECTORY: options.credentials },
    autorestart: true,
    // Doubles up to 15 s and falls back after 30 s of work; never given up.
    exp_backoff_restart_delay: 500,
    max_restarts: 1_000_000_000,
    stop_exit_codes: finalExitCodes,
    // SIGINT drains. Programs that tasks run are left alone until their runner has ended.
    kill_timeout: kind.stopTimeoutMs,
    treekill: false,
    out_file: log,
    error_file: log,
    merge_logs: true,
  }
}
