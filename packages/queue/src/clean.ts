/**
 * Makes text and values storable: PostgreSQL refuses NUL and unpaired surrogates, and JSON has neither bigint nor cycles.
 *
 * Used for what handlers leave behind (results, errors, logs), so that a strange byte never keeps a task from ending.
 * Payloads are not cleaned: a submitter is told (ValueRefusedError).
 */

// oxlint-disable-next-line no-control-regex -- NUL is exactly what has to go
const unstorable = /\u0000/g

/** Text without NUL and with unpaired surrogates replaced, at most `maxLength` UTF-16 units. */
export function cleanText(text: string, maxLength: number): string {
  const cut = text.length > maxLength ? `${text.slice(0, maxLength - 1)}…` : text
  return cut.replace(unstorable, '\uFFFD').toWellFormed()
}

/** JSON text of any value: bigint as string, functions and cycles as their description; never throws. */
export function cleanJson(value: unknown, maxLength = 1_000_000): string {
  const ancestors: object[] = []
  const text = JSON.stringify(value, function (this: unknown, _key, item: unknown) {
    if (typeof item === 'string') return item.replace(unstorable, '\uFFFD').toWellFormed()
    if (typeof item === 'bigint') return item.toString()
    if (typeof item === 'function' || typeof item === 'symbol') return String(item)
    if (typeof item === 'object' && item !== null) {
      while (ancestors.length > 0 && ancestors.at(-1) !== this) ancestors.pop()
      if (ancestors.includes(item)) return '[circular]'
      ancestors.push(item)
    }
    return item
  })
  if (text === undefined) return 'null'
  if (text.length > maxLength) return JSON.stringify({ cut: true, length: text.length, start: text.slice(0, 1000) })
  return text
}

/** An error as it is stored with an attempt: `{ code, message, stack? , … }`, cut to sane sizes. */
export function describeError(error: unknown): { code: string; message: string; stack?: string } {
  if (error instanceof Error) {
    const code = (error as { code?: unknown }).code
    return {
      code: cleanText(typeof code === 'string' ? code : error.name, 100),
      message: cleanText(error.message || error.name, 4000),
      ...(error.stack ? { stack: cleanText(error.stack, 4000) } : {}),
    }
  }
  return { code: 'thrown', message: cleanText(typeof error === 'string' ? error : cleanJson(error, 4000), 4000) }
}
