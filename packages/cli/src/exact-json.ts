/**
 * JSON in and out without rounding: ids outgrow what a JavaScript number can hold.
 *
 * Invariant: a number is written out as it was read, digit for digit. Such numbers are opaque values that JSON.stringify
 * prints; nothing here computes with them.
 */

/** `JSON.rawJSON` and the source text in revivers: newer than the compiler's library. */
type ExactJson = {
  parse(
    text: string,
    reviver: (key: string, value: unknown, context: { source?: string }) => unknown,
  ): unknown
  rawJSON(text: string): unknown
}

/** Parses JSON and keeps numbers exact. Throws SyntaxError, or RangeError when it is nested too deeply. */
export function parseExactly(text: string): unknown {
  const json = JSON as unknown as ExactJson
  return json.parse(text, (_key, value, { source }) =>
    typeof value === 'number' && source !== undefined && String(value) !== source
      ? json.rawJSON(source)
      : value,
  )
}
