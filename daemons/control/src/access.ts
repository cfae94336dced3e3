/**
 * Who may ask: who brings the token, or, where none is set, who is on this machine and means it.
 *
 * Invariant: tokens are compared in constant time, so that nobody finds one out letter by letter. Without a token a name of
 * a domain is refused: a web page may have its name resolved to this machine and read what a browser here may read.
 */
import { createHash, timingSafeEqual } from 'node:crypto'
import { isIP } from 'node:net'

/** A check of the Authorization header against one token. */
export function bearerCheck(token: string): (header: string | undefined) => boolean {
  const wanted = digest(token)
  return (header) => {
    const given = /^bearer +(\S+) *$/i.exec(header ?? '')?.[1]
    return given !== undefined && timingSafeEqual(digest(given), wanted)
  }
}

/** Whether a Host header names an address or localhost, with any port; none at all is no name either. */
export function namesNoDomain(header: string | undefined): boolean {
  const name = (header ?? '').replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1')
  return name === '' || name.toLowerCase() === 'localhost' || isIP(name) !== 0
}

/** Equally long for all texts, as the comparison needs it. */
function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}
