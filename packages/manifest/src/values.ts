/**
 * The forms of single values: names, numbers, lengths of time, commands, environments.
 *
 * Each refusal shows the value and says what would be right; a value that could be a secret is never shown.
 */
import { type Duration, toMs } from '@leasehold/queue'
import { z } from 'zod'

/** A value as it is shown in a refusal. */
export function shown(value: unknown): string {
  const text = typeof value === 'string' ? `'${value}'` : (JSON.stringify(value) ?? String(value))
  return text.length > 80 ? `${text.slice(0, 79)}…` : text
}

const refusal =
  (what: string) =>
  (issue: { readonly input?: unknown }): string =>
    issue.input === undefined ? `is missing; ${what}` : `${what}, not ${shown(issue.input)}`

/** Text of a certain form. */
export function text(pattern: RegExp, what: string): z.ZodString {
  const error = refusal(what)
  return z.string({ error }).regex(pattern, { error })
}

/** A whole number in bounds. */
export function whole(least: number, most: number): z.ZodNumber {
  const error = refusal(`must be a whole number from ${least} to ${most}`)
  return z.number({ error }).int({ error }).min(least, { error }).max(most, { error })
}

/** A length of time, as milliseconds. `bounds` says in words what `least` and `most` are. */
export function duration(least: number, most: number, bounds: string): z.ZodType<number, Duration> {
  return z.unknown().transform((value, context) => {
    const refuse = (message: string): never => {
      context.issues.push({ code: 'custom', message, input: value })
      return z.NEVER
    }
    try {
      const ms = toMs(value as Duration)
      return ms >= least && ms <= most ? ms : refuse(`must be ${bounds}, not ${shown(value)}`)
    } catch {
      return refuse(
        `must be a length of time such as '30 s', '5 min', '2 h' or milliseconds, not ${shown(value)}`,
      )
    }
  }) as unknown as z.ZodType<number, Duration>
}

/** As the database checks it, and fit for a slot and a systemd instance. */
export const namePattern: RegExp = /^[a-z][a-z0-9_.-]{0,47}$/
export const nameRule = 'must be 1 to 48 lower case letters, digits, _ . - and start with a letter'

export const stageName: z.ZodString = text(namePattern, nameRule)

/** What only a shell would understand. */
const shellCharacters = /["'`$\\|&;<>()*?[\]{}~#!\n]/
// oxlint-disable-next-line no-control-regex -- NUL ends a text for the operating system
const nul = /\u0000/

/** A command as its words. A text is split at its spaces; nothing in it is interpreted. */
export const command: z.ZodType<string[]> = z.unknown().transform((value, context) => {
  const refuse = (message: string): never => {
    context.issues.push({ code: 'custom', message, input: value })
    return z.NEVER
  }
  const form = "must be a text such as 'node workers/blog.js' or a list of its words"
  if (typeof value === 'string' && shellCharacters.test(value))
    return refuse(
      `is split at its spaces and not given to a shell, so ${shown(shellCharacters.exec(value)?.[0])} would arrive as it is: ` +
        "write a list of words, or ['sh', '-c', '…'] for a shell",
    )
  const words = typeof value === 'string' ? value.split(' ').filter((word) => word !== '') : value
  if (!Array.isArray(words) || words.length === 0) return refuse(`${form}, not ${shown(value)}`)
  const wrong = words.find((word) => typeof word !== 'string' || nul.test(word))
  if (wrong !== undefined) return refuse(`${form}; ${shown(wrong)} is no word`)
  if (words[0] === '') return refuse('must begin with the name of a program')
  return words as string[]
})

/** Settings that the manifest has a place of its own for. */
const placed: Readonly<Record<string, string>> = {
  SLOT_ID: 'every process is given its own',
  LEASEHOLD_CONCURRENCY: "write concurrency beside the stage's command or module",
  LEASEHOLD_LEASE_TTL_MS: 'write leaseTtl at the top of the manifest',
  LEASEHOLD_BEAT_INTERVAL_MS: 'write beatInterval at the top of the manifest',
  LEASEHOLD_DRAIN_TIMEOUT_MS: 'write drainTimeout at the top of the manifest',
  LEASEHOLD_WEDGE_LIMIT_MS: 'write wedgeLimit at the top of the manifest',
}

/** Names that stand for secrets; addresses of webhooks and pings are some, because who knows one may post there. */
const secretName =
  /(^|_)(SECRETS?|(PG)?PASSWORDS?|PASSWD|PASS|PASSPHRASE|TOKENS?|API_?KEYS?|ACCESS_?KEY|PRIVATE_?KEY|KEYS?|SK|CREDENTIALS?|DSN|AUTH(ORIZATION)?(_HEADER)?|(WEBHOOK|PING)(_UR[IL])?)(_ID)?$|_PWD$|^DATABASE_URL$/i
/** An address with a password or a token in it, an authorization header, a key or a token by their usual beginnings. */
const secretValue =
  /^[a-z][a-z0-9+.-]*:\/\/[^\s/@:]*:[^\s/@]+@|^https?:\/\/[^\s/@]{16,}@|[?&](access_?token|api_?key|auth|key|password|secret|sig|signature|token)=[^&\s]|(^|\s)(password|passwd|pwd)\s*=\s*\S|^(bearer|basic) \S|^sk[-_]\S{8}|-----BEGIN |^eyJ[\w-]+\.[\w-]+\./i
/** Tokens that say whose they are; anywhere in a value, so that an option with one is found too. */
const tokens = new RegExp(
  `(?<![A-Za-z0-9])(${[
    'gh[pousr]_[A-Za-z0-9]{16}', // GitHub
    'github_pat_\\w{16}',
    'gl(pat|ptt|rt|dt|ft)-[\\w-]{16}', // GitLab
    'xox[abeoprs]-[\\w-]{8}', // Slack
    'xapp-\\d-\\w',
    '[rs]k_(live|test)_\\w{8}', // Stripe
    'whsec_\\w{8}',
    '(AKIA|ASIA)[0-9A-Z]{16}', // AWS
    'AIza[\\w-]{30}', // Google
    'ya29\\.[\\w-]{16}',
    'SG\\.[\\w-]{16,}\\.[\\w-]{16}', // SendGrid
    'npm_[A-Za-z0-9]{30}',
    'pypi-[\\w-]{16}',
    'hf_[A-Za-z0-9]{20}', // Hugging Face
    'do[opr]_v1_[0-9a-f]{16}', // DigitalOcean
    'dapi[0-9a-f]{32}', // Databricks
    'shp(at|ca|pa|ss)_[0-9a-fA-F]{16}', // Shopify
    'hv[sb]\\.[\\w-]{16}', // Vault
    'lin_api_\\w{16}', // Linear
    'secret_[A-Za-z0-9]{30}', // Notion
    '\\d{8,10}:[A-Za-z0-9_-]{35}', // Telegram
    'AGE-SECRET-KEY-1',
  ].join('|')})|hooks\\.slack\\.com/services/|discord(app)?\\.com/api/webhooks/`,
)

/** Variables of a process. Whatever looks like a secret is refused: files made from the manifest are not secret. */
export const environment: z.ZodType<Record<string, string>> = z
  .record(z.string(), z.unknown(), { error: refusal('must be an object of names and texts') })
  .transform((variables, context) => {
    for (const [name, value] of Object.entries(variables)) {
      const problem = variableProblem(name, value)
      if (problem !== null)
        context.issues.push({ code: 'custom', message: problem, path: [name], input: undefined })
    }
    return variables as Record<string, string>
  })

function variableProblem(name: string, value: unknown): string | null {
  if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name))
    return 'is no name of a variable: letters, digits and _ only, not starting with a digit'
  if (secretName.test(name) || (typeof value === 'string' && (secretValue.test(value) || tokens.test(value))))
    return (
      `looks like a secret, and a manifest holds none: put '${name}' into service.secrets and its value into a credential; ` +
      'if it is none, name it otherwise'
    )
  const place = placed[name]
  if (place !== undefined) return `does not belong here: ${place}`
  if (name.startsWith('LEASEHOLD_TASK_')) return 'does not belong here: it is set for every task'
  if (typeof value !== 'string') return `must be a text, not ${shown(value)}`
  return /\p{Cc}/u.test(value) ? 'must be one line without control characters' : null
}
