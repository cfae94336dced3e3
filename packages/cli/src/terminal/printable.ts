/**
 * Makes stored text safe to show: what a task, a worker or a page called itself must not drive the terminal.
 *
 * Invariant: the answer has no control characters, no line breaks, nothing that reverses the reading direction and no
 * half characters. JSON output goes through `safeJson`, which keeps the value exactly and escapes the same characters.
 */
import { writeExact } from '@leasehold/queue'

// C0, DEL, C1, line and paragraph separators, marks and overrides of direction, soft hyphen, zero width, tags, BOM.
const unsafe =
  /[\p{Cc}\u00AD\u061C\u200B-\u200F\u2028-\u202E\u2060-\u206F\uFEFF\uFFF9-\uFFFB\p{Cs}]|[\u{E0000}-\u{E007F}]/gu

const named: Readonly<Record<string, string>> = { '\n': '\\n', '\r': '\\r', '\t': '\\t', '\u001B': '\\e' }

/** Text on one line with unsafe characters written out (`\n`, `\e`, `\u{202e}`); longer than `max` it ends in `…`. */
export function printable(text: string, max = 1_000): string {
  const cut = text.length > max ? `${text.slice(0, max - 1)}…` : text
  return cut.replace(unsafe, (char) => named[char] ?? `\\u{${(char.codePointAt(0) ?? 0).toString(16)}}`)
}

/** JSON that stands for the same value and can be printed: unsafe characters are `\uXXXX` escapes. */
export function safeJson(value: unknown, indent = 2): string {
  const text = writeExact(value, indent) ?? 'null'
  return text.replace(unsafe, (char) => {
    if (char === '\n') return char // Between tokens: inside a string JSON has escaped it already.
    return char
      .split('')
      .map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
      .join('')
  })
}
