/**
 * Reads the body of a page: at most so many bytes, decoded by the charset it declares.
 *
 * Bytes are counted after decompression, so that a small download cannot become a large page. What is beyond the limit is left
 * unread and reported as `truncated`, never an error. Which content types are read at all is web.ts.
 */

import { TextDecoder } from 'node:util'

/** The text of a body, and whether there was more. */
export type BodyText = { readonly text: string; readonly truncated: boolean }

/** Reads `body` up to `maxBytes`, then lets go of the rest. Throws what the stream throws. */
export async function readBody(
  body: AsyncIterable<Uint8Array> | null,
  contentType: string,
  maxBytes: number,
): Promise<BodyText> {
  const chunks: Uint8Array[] = []
  let size = 0
  let truncated = false
  if (body !== null) {
    for await (const chunk of body) {
      const room = maxBytes - size
      if (chunk.length > room) {
        chunks.push(chunk.subarray(0, room))
        size += room
        truncated = true
        break
      }
      chunks.push(chunk)
      size += chunk.length
    }
  }
  const bytes = Buffer.concat(chunks, size)
  return { text: decoderFor(bytes, contentType).decode(bytes), truncated }
}

/** By byte-order mark, then the header, then a `<meta>` in the first 2 KiB, then UTF-8. Unknown names count as not declared. */
function decoderFor(bytes: Buffer, contentType: string): TextDecoder {
  if (bytes[0] === 0xff && bytes[1] === 0xfe) return new TextDecoder('utf-16le')
  if (bytes[0] === 0xfe && bytes[1] === 0xff) return new TextDecoder('utf-16be')
  const declared =
    /charset\s*=\s*["']?([\w.:-]+)/i.exec(contentType)?.[1] ??
    /<meta[^>]{0,300}charset\s*=\s*["']?([\w.:-]+)/i.exec(bytes.subarray(0, 2048).toString('latin1'))?.[1] ??
    'utf-8'
  try {
    return new TextDecoder(declared)
  } catch {
    // A charset nobody knows: UTF-8 shows most of the text.
    return new TextDecoder('utf-8')
  }
}
