/**
 * From the configuration to what each channel needs; the monitor and `leasehold alerts test` send by the same settings.
 */
import type { Config, Environment } from '@leasehold/service'
import type { ChannelSettings } from './open.ts'

/** Of our environment a command sees these and nothing else: the rest may hold secrets. */
const passedOn = ['PATH', 'HOME', 'LANG', 'TZ']

/** The settings of every channel that `config` names; `environment` is what a command's bare one is taken from. */
export function channelSettings(config: Config, environment: Environment): ChannelSettings {
  const { smtp, monitor, alerts } = config
  const env = passedOn.flatMap((name): [string, string][] => {
    const value = environment[name]
    return value === undefined ? [] : [[name, value]]
  })
  return {
    smtp: smtp === null ? null : { ...smtp, to: monitor.alertEmails },
    telegram: alerts.telegram,
    webhook: alerts.webhook,
    command: alerts.command === null ? null : { argv: alerts.command, env: Object.fromEntries(env) },
  }
}
