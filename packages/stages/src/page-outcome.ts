/**
 * What can become of fetching a page. The words of web.ts and exchange.ts.
 *
 * A failure says whether the page could not be had (`unavailable`, another day it may) or is not asked for (`refused`), with a
 * reason for programs and a detail for people.
 */

/** Why a page could not be had though it may be asked for. `network` means that nobody can be reached at the moment. */
export type UnavailableReason =
  'dns' | 'connect' | 'network' | 'timeout' | 'status' | 'redirects' | 'content type' | 'protocol'

/** Why a page is not asked for. */
export type RefusedReason = 'address' | 'private address' | 'robots'

/** The page could not be had. `status` is there when the site answered with one that is no success. */
export type PageUnavailable = {
  readonly outcome: 'unavailable'
  readonly reason: UnavailableReason
  readonly status: number | null
  readonly detail: string
}

/** The page is not asked for. */
export type PageRefused = {
  readonly outcome: 'refused'
  readonly reason: RefusedReason
  readonly detail: string
}

/** The page. `url` is where the redirects ended; `truncated` says that the text is only the page's beginning. */
export type PageFound = {
  readonly outcome: 'ok'
  readonly url: string
  readonly contentType: string
  readonly text: string
  readonly truncated: boolean
}

/** What became of a fetch. */
export type PageOutcome = PageFound | PageUnavailable | PageRefused

/** Makes an `unavailable` outcome. */
export function unavailable(
  reason: UnavailableReason,
  detail: string,
  status: number | null = null,
): PageUnavailable {
  return { outcome: 'unavailable', reason, status, detail }
}
