/**
 * Whether a request brings the token: compared in constant time, so that nobody finds it out letter by letter.
 */
import { createHash, timingSafeEqual } from 'node:crypto'

/** A check of the Authorization header against one token. */
export function bearerCheck(token: string): (header: string | undefined) => boolean {
  const wanted = digest(token)
  return (header) => {
    const given = /^bearer +(\S+) *$/i.exec(header ?? '')?.[1]
    return given !== undefined && timingSafeEqual(digest(given), wanted)
  }
}

/** Equally long for all texts, as the comparison needs it. */
function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}
