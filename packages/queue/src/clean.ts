/**
 * Makes text and values storable: PostgreSQL refuses NUL and unpaired surrogates, and JSON has neither bigint nor cycles.
 *
 * Used for what handlers leave behind (results, errors, logs), so that a strange byte never keeps a task from ending.
 * Payloads are not cleaned: a submitter is told (ValueRefusedError).
 */
import { rawNumber } from './exact-json.ts'

// oxlint-disable-next-line no-control-regex -- NUL is exactly what has to go
const unstorable = /\u0000/g

/** Text without NUL and with unpaired surrogates replaced, at most `maxLength` UTF-16 units. */
export function cleanText(text: string, maxLength: number): string {
  const cut = text.length > maxLength ? `${text.slice(0, maxLength - 1)}…` : text
  return cut.replace(unstorable, '\uFFFD').toWellFormed()
}

/** Deeper than anything sensible, and far from what overflows the stack of either side. */
const maxDepth = 500

/** JSON text of any value: bigint as string; functions, cycles and what cannot be read as their description. Never throws. */
export function cleanJson(value: unknown, maxLength = 1_000_000): string {
  const text = textOf(value, String)
  if (text.length <= maxLength) return text
  return JSON.stringify({ cut: true, length: text.length, start: text.slice(0, 1000).toWellFormed() })
}

/** {@link cleanJson}, uncut, and a bigint is the number that it is: for what parseExact reads (results, checkpoints). */
export function cleanExact(value: unknown): string {
  return textOf(value, rawNumber)
}

/** How a bigint is written. */
type WriteBigint = (item: bigint) => unknown

function textOf(value: unknown, write: WriteBigint): string {
  try {
    return stringify(value, write)
  } catch {
    return '"[unreadable: larger than a text can be]"'
  }
}

function stringify(value: unknown, write: WriteBigint): string {
  const ancestors: object[] = []
  try {
    return storable(
      JSON.stringify(value, function (this: unknown, _key, item: unknown) {
        if (typeof item === 'bigint') return write(item)
        if (typeof item === 'function' || typeof item === 'symbol') return String(item)
        if (typeof item === 'object' && item !== null) {
          while (ancestors.length > 0 && ancestors.at(-1) !== this) ancestors.pop()
          if (ancestors.includes(item)) return '[circular]'
          if (ancestors.length >= maxDepth) return '[nested too deeply]'
          ancestors.push(item)
        }
        return item
      }) ?? 'null',
    )
  } catch (error) {
    return stringifyParts(value, error, write)
  }
}

/** JSON writes NUL and unpaired surrogates as escapes, in names and in values; a backslash that is meant is doubled. */
function storable(json: string): string {
  if (!/\\u(?:0000|d[89a-f])/.test(json)) return json
  return json.replace(/\\\\|\\u(?:0000|d[89a-f][0-9a-f]{2})/g, (found) =>
    found === '\\\\' ? found : '\uFFFD',
  )
}

/** Something inside throws when it is read (a toJSON, a getter): what can be read is kept, the rest says why not. */
function stringifyParts(value: unknown, error: unknown, write: WriteBigint): string {
  const refusal = JSON.stringify(
    `[unreadable: ${error instanceof Error ? cleanText(error.message, 200) : 'no reason'}]`,
  )
  if (typeof value !== 'object' || value === null || 'toJSON' in value) return refusal
  const part = (key: string): string => {
    try {
      return stringify((value as Record<string, unknown>)[key], write)
    } catch {
      return refusal
    }
  }
  if (Array.isArray(value)) return `[${value.map((_, i) => part(String(i))).join(',')}]`
  return `{${Object.keys(value)
    .map((key) => `${stringify(key, write)}:${part(key)}`)
    .join(',')}}`
}

/** An error as it is stored with an attempt: `{ code, message, stack? , … }`, cut to sane sizes. Never throws. */
export function describeError(error: unknown): { code: string; message: string; stack?: string } {
  if (error instanceof Error) {
    const { code, name, message, stack } = error as {
      code?: unknown
      name?: unknown
      message?: unknown
      stack?: unknown
    }
    return {
      code: cleanText(typeof code === 'string' ? code : asText(name), 100),
      message: cleanText(asText(message) || asText(name), 4000),
      ...(typeof stack === 'string' && stack !== '' ? { stack: cleanText(stack, 4000) } : {}),
    }
  }
  return { code: 'thrown', message: cleanText(asText(error), 4000) }
}

function asText(value: unknown): string {
  return typeof value === 'string' ? value : cleanJson(value, 4000)
}
