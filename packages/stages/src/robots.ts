/**
 * Remembers what each site's robots.txt allows, and asks for it once an hour at most.
 *
 * RFC 9309: no such file (4xx) allows all; a server error forbids all; at most the first 500 KiB count. A site that could not
 * be reached at all is told apart, because the page will not be reachable either. Memory is bounded, and so is the time that
 * a hostile file can take: rules are matched on the main loop. Fetching is web.ts.
 */
import { createRequire } from 'node:module'

/** What a site's rules say about one page. `unreachable` carries why robots.txt could not be had. */
export type RobotsVerdict<U> =
  | { readonly verdict: 'allowed' }
  | { readonly verdict: 'forbidden'; readonly why: string }
  | { readonly verdict: 'unreachable'; readonly why: U }

/** The answer to a request for a robots.txt. */
export type RobotsFile<U> = { readonly status: number; readonly text: string } | { readonly unreachable: U }

/** A memory of rules. `check` asks for the file with `fetchFile` when it has none that is fresh. */
export type Robots<U> = {
  check(url: URL, fetchFile: (robotsUrl: URL) => Promise<RobotsFile<U>>): Promise<RobotsVerdict<U>>
}

/** Its declarations claim a default export which the CommonJS module does not have. */
const robotsParser: (
  url: string,
  text: string,
) => { isAllowed(url: string, agent: string): boolean | undefined } = createRequire(import.meta.url)(
  'robots-parser',
)

type Rules = { readonly until: number; readonly allows: (url: string) => boolean; readonly why: string }

/** The first bytes of a robots.txt that count. */
export const ROBOTS_BYTES: number = 500 * 1024
/** Lines that count, and wildcards of one rule. Twelve thousand rules with 14 each took 2 s of the main loop for one page. */
const MAX_LINES = 5_000
const MAX_WILDCARDS = 8
const FRESH_MS = 3_600_000
const MAX_SITES = 5_000

/** Makes an empty memory for the user agent's product token. `now` is a monotonic clock in ms. */
export function createRobots<U>(
  productToken: string,
  now: () => number = () => performance.now(),
): Robots<U> {
  const sites = new Map<string, Rules>()
  return {
    async check(url, fetchFile) {
      let rules = sites.get(url.origin)
      if (rules === undefined || rules.until < now()) {
        const robotsUrl = new URL('/robots.txt', url)
        const file = await fetchFile(robotsUrl)
        if ('unreachable' in file) return { verdict: 'unreachable', why: file.unreachable }
        rules = { ...readRules(robotsUrl.href, file, productToken), until: now() + FRESH_MS }
        sites.delete(url.origin)
        sites.set(url.origin, rules)
        const oldest = sites.keys().next()
        if (sites.size > MAX_SITES && oldest.done !== true) sites.delete(oldest.value)
      }
      return rules.allows(url.href) ? { verdict: 'allowed' } : { verdict: 'forbidden', why: rules.why }
    },
  }
}

function readRules(
  robotsUrl: string,
  file: { readonly status: number; readonly text: string },
  productToken: string,
): Pick<Rules, 'allows' | 'why'> {
  if (file.status >= 500)
    return { allows: () => false, why: `its robots.txt answers with status ${file.status}` }
  if (file.status >= 400) return { allows: () => true, why: '' }
  const parsed = robotsParser(robotsUrl, bounded(file.text))
  return { allows: (url) => parsed.isAllowed(url, productToken) !== false, why: 'its robots.txt forbids it' }
}

function bounded(text: string): string {
  return text
    .split(/\r\n|\r|\n/, MAX_LINES)
    .map(widened)
    .join('\n')
}

/** A rule with too many wildcards forbids more than it says, or allows nothing: never does it let us in by being cut. */
function widened(line: string): string {
  const parts = line.replaceAll(/\*{2,}/g, '*').split('*')
  if (parts.length - 1 <= MAX_WILDCARDS) return line
  return /^\s*allow\b/i.test(line) ? '' : parts.slice(0, MAX_WILDCARDS + 1).join('*')
}
