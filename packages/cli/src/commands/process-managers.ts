/**
 * `leasehold supervisor print` and `leasehold pm2 print`: the same manifest for those who do not run systemd.
 *
 * Only prints; where the file goes is the reader's.
 */
import { realpathSync } from 'node:fs'
import { resolve } from 'node:path'
import type { Command } from 'commander'
import type { Context } from '../context.ts'
import { defaultManifest, openManifest } from '../manifest/read.ts'
import { pm2Config } from '../process-managers/pm2.ts'
import { supervisorConfig } from '../process-managers/supervisor.ts'
import { describePlace } from '../systemd/installation.ts'

interface PrintOptions {
  readonly config: string
  readonly prefix: string
  readonly node?: string
  readonly logDir?: string
  readonly credentials?: string
}

/** Adds the commands to the program. */
export function addProcessManagers(program: Command, context: Context): void {
  const managers = [
    ['supervisor', 'a configuration for Supervisor', supervisorConfig],
    ['pm2', 'a configuration for PM2', pm2Config],
  ] as const
  for (const [name, what, make] of managers) {
    program
      .command(name)
      .description(`${what} from a manifest`)
      .command('print')
      .description(`print ${what}`)
      .option('--config <file>', 'the manifest', defaultManifest)
      .option('--prefix <name>', 'what the names of all programs begin with', 'leasehold')
      .option('--node <path>', 'the Node that runs them (default: this one)')
      .option('--log-dir <dir>', 'where logs go (default: /var/log/PREFIX)')
      .option(
        '--credentials <dir>',
        'where the files with the secrets lie (default: /etc/PREFIX/credentials)',
      )
      .action(async (options: PrintOptions) => {
        const { prefix } = describePlace({ ...options, root: '/' })
        const text = make(await openManifest(options.config), {
          prefix,
          node: options.node ?? realpathSync(process.execPath),
          logFolder: resolve(options.logDir ?? `/var/log/${prefix}`),
          credentials: resolve(options.credentials ?? `/etc/${prefix}/credentials`),
        })
        context.terminal.out(text.trimEnd())
      })
  }
}
